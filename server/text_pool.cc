#include "server/text_pool.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <thread>
#include <utility>

namespace palu {
namespace {

size_t NumThreads(int threads) {
  if (threads > 0) return static_cast<size_t>(threads);
  return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4);
}

}  // namespace

class TextPool::Impl {
 public:
  explicit Impl(int threads) : pool(NumThreads(threads)) {}
  boost::asio::thread_pool pool;
};

TextPool::TextPool(int threads) : impl_(std::make_unique<Impl>(threads)) {}

TextPool::~TextPool() { Join(); }

void TextPool::Join() { impl_->pool.join(); }

void TextPool::Post(std::function<void()> work) { boost::asio::post(impl_->pool, std::move(work)); }

}  // namespace palu
