// The HTTP server on a real socket, with a handler that answers from threads of its own.
#include "server/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

namespace palu {
namespace {

using std::chrono::seconds;

// Ends a stream some microseconds after its text: now and then while the connection is busy
// writing that text, when a wake-up finds nobody waiting.
class BurstHandler final : public HttpHandler {
 public:
  ~BurstHandler() override { EXPECT_TRUE(threads_.empty()) << "Join is missing"; }
  // A client may have the whole answer while the thread that gave it is still in Finish.
  void Join() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  void Handle(HttpRequest, std::shared_ptr<HttpReply> reply) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto pause = std::chrono::microseconds(threads_.size() % 100);
    threads_.emplace_back([reply, pause] {
      reply->StartStream();
      reply->Write("data: x\n\n");
      const auto until = std::chrono::steady_clock::now() + pause;
      while (std::chrono::steady_clock::now() < until) {
      }
      reply->Finish();
    });
  }
  std::optional<HttpResponse> RefuseHead(const HttpRequest&) override { return std::nullopt; }
  HttpResponse Refuse(int status, const std::string& message) override {
    HttpResponse response;
    response.status = status;
    response.body = message;
    return response;
  }
  std::vector<std::pair<std::string, std::string>> CorsHeaders(const std::string&) override {
    return {};
  }
  void Done(const HttpAccess&) override {}

 private:
  std::mutex mutex_;
  std::vector<std::thread> threads_;
};

class Client {
 public:
  explicit Client(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    timeval timeout{5, 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  }
  ~Client() { close(socket_); }

  bool connected() const { return connected_; }
  // Whether a whole chunked answer came, with no gap of 5 s in it.
  bool Exchange() {
    const std::string request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    if (send(socket_, request.data(), request.size(), 0) != ssize_t(request.size())) return false;
    std::string answer;
    char bytes[4096];
    while (answer.find("\r\n0\r\n\r\n") == std::string::npos) {
      const ssize_t count = recv(socket_, bytes, sizeof(bytes), 0);
      if (count <= 0) return false;
      answer.append(bytes, static_cast<size_t>(count));
    }
    return true;
  }

 private:
  int socket_;
  bool connected_;
};

TEST(HttpServer, StreamEndsAsSoonAsItsLastBytesAreThere) {
  HttpConfig config;
  config.address = "127.0.0.1";
  config.port = 0;
  config.sse_keepalive = seconds(60);
  BurstHandler handler;
  HttpServer server(config, &handler);
  server.Start();
  std::vector<std::thread> clients;
  std::atomic<int> complete{0};
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      Client client(server.port());
      ASSERT_TRUE(client.connected());
      for (int request = 0; request < 200; ++request) {
        if (!client.Exchange()) return;
        ++complete;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  handler.Join();
  EXPECT_EQ(complete.load(), 800);
}

}  // namespace
}  // namespace palu
