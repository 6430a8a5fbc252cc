#include "server/http_reply.h"

#include <gtest/gtest.h>

#include <string>

namespace palu {
namespace {

class HttpReplyTest : public ::testing::Test {
 protected:
  BufferedReply Make(ReplyOptions options = {}) {
    options.request_id = "id1";
    return BufferedReply(std::move(options), [this] { ++wakes_; });
  }
  static HttpResponse Ok(std::string body) {
    return {200, "application/json", std::move(body), {}};
  }

  int wakes_ = 0;
};

TEST_F(HttpReplyTest, WholeAnswer) {
  BufferedReply reply = Make();
  reply.Respond(Ok("{}"));
  const BufferedReply::Outbox outbox = reply.Take();
  EXPECT_TRUE(outbox.finished);
  EXPECT_EQ(outbox.bytes.rfind("HTTP/1.1 200 OK\r\n", 0), 0u);
  EXPECT_NE(outbox.bytes.find("Content-Length: 2\r\n"), std::string::npos);
  EXPECT_NE(outbox.bytes.find("x-request-id: id1\r\n"), std::string::npos);
  EXPECT_NE(outbox.bytes.find("Connection: close\r\n"), std::string::npos);
  EXPECT_EQ(outbox.bytes.substr(outbox.bytes.size() - 6), "\r\n\r\n{}");
  EXPECT_EQ(wakes_, 1);
}

TEST_F(HttpReplyTest, HeadHasTheLengthButNoBody) {
  ReplyOptions options;
  options.head = true;
  BufferedReply reply = Make(options);
  reply.Respond(Ok("{}"));
  const std::string bytes = reply.Take().bytes;
  EXPECT_NE(bytes.find("Content-Length: 2\r\n"), std::string::npos);
  EXPECT_EQ(bytes.substr(bytes.size() - 4), "\r\n\r\n");
}

TEST_F(HttpReplyTest, ProbesAreTheStartOfTheStatusLine) {
  BufferedReply plain = Make();
  plain.Respond(Ok("{}"));
  const std::string expected = plain.Take().bytes;
  BufferedReply probed = Make();
  std::string bytes;
  for (int i = 0; i < 20; ++i) {
    probed.Probe();
    bytes += probed.Take().bytes;
  }
  EXPECT_EQ(bytes, "HTTP/1.1 ");
  probed.Respond(Ok("{}"));
  bytes += probed.Take().bytes;
  const auto without_date = [](std::string text) {
    const size_t at = text.find("Date:");
    return text.erase(at, text.find("\r\n", at) - at);
  };
  EXPECT_EQ(without_date(bytes), without_date(expected));
}

TEST_F(HttpReplyTest, StreamIsChunkedAndProbesAreComments) {
  BufferedReply reply = Make();
  reply.StartStream();
  EXPECT_NE(reply.Take().bytes.find("Transfer-Encoding: chunked\r\n"), std::string::npos);
  reply.Write("data: x\n\n");
  reply.Probe();
  reply.Finish();
  const BufferedReply::Outbox outbox = reply.Take();
  EXPECT_EQ(outbox.bytes, "9\r\ndata: x\n\n\r\n3\r\n:\n\n\r\n0\r\n\r\n");
  EXPECT_TRUE(outbox.finished);
}

TEST_F(HttpReplyTest, OldClientsGetNoChunks) {
  ReplyOptions options;
  options.http10 = options.keep_alive = true;
  BufferedReply reply = Make(options);
  reply.StartStream();
  const std::string head = reply.Take().bytes;
  EXPECT_EQ(head.find("chunked"), std::string::npos);
  EXPECT_FALSE(reply.keep_alive()) << "the end of the connection is the end of the stream";
  reply.Write("data: x\n\n");
  reply.Finish();
  EXPECT_EQ(reply.Take().bytes, "data: x\n\n");
}

TEST_F(HttpReplyTest, FullUntilTheSocketHasTakenIt) {
  BufferedReply reply = Make();
  int writable = 0;
  reply.SetCallbacks([] {}, [&writable] { ++writable; });
  reply.StartStream();
  EXPECT_FALSE(reply.full());
  reply.Write(std::string(300 << 10, 'x'));
  EXPECT_TRUE(reply.full());
  const size_t size = reply.Take().bytes.size();
  EXPECT_TRUE(reply.full()) << "what is being written still counts";
  EXPECT_EQ(writable, 0);
  reply.Sent(size);
  EXPECT_FALSE(reply.full());
  EXPECT_EQ(writable, 1);
}

TEST_F(HttpReplyTest, GonePeerIsToldOnceAndNeverFull) {
  BufferedReply reply = Make();
  int gone = 0;
  reply.SetCallbacks([&gone] { ++gone; }, [] {});
  reply.StartStream();
  reply.Write(std::string(300 << 10, 'x'));
  reply.MarkGone();
  reply.MarkGone();
  EXPECT_EQ(gone, 1);
  EXPECT_FALSE(reply.full());
  reply.Write("more");
  EXPECT_EQ(reply.Take().bytes, "");
  int late = 0;
  reply.SetCallbacks([&late] { ++late; }, [] {});
  EXPECT_EQ(late, 1) << "whoever asks late is told at once";
}

TEST_F(HttpReplyTest, OnlyTheFirstAnswerCounts) {
  BufferedReply reply = Make();
  reply.Respond(Ok("1"));
  reply.Respond({500, "", "2", {}});
  EXPECT_EQ(reply.status(), 200);
}

}  // namespace
}  // namespace palu
