// Request bodies of all routes that take JSON, and what HTTP gives beside them.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/check.h"
#include "server/http_target.h"
#include "server/open_inference.h"
#include "server/openai_embeddings.h"
#include "server/openai_logprobs.h"
#include "server/openai_request.h"
#include "server/request_id.h"

namespace {

// A refusal always says what is wrong.
template <typename T>
void CheckResult(const palu::Result<T>& result) {
  if (result) return;
  PALU_CHECK(result.error().code == palu::StatusCode::kInvalidArgument);
  PALU_CHECK(!result.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto completion = palu::ParseCompletionRequest(text);
  CheckResult(completion);
  if (completion) PALU_CHECK(!completion->spec.prompts.empty());
  const auto chat = palu::ParseChatRequest(text);
  CheckResult(chat);
  if (chat) PALU_CHECK(!chat->chat.messages.empty());
  CheckResult(palu::ParseTokenizeRequest(text));
  CheckResult(palu::ParseDetokenizeRequest(text));
  const auto embedding = palu::ParseEmbeddingRequest(text);
  CheckResult(embedding);
  if (embedding) PALU_CHECK(!embedding->spec.prompts.empty());
  const auto infer = palu::ParseInferRequest(text);
  CheckResult(infer);
  if (infer) CheckResult(palu::ToCompletion(*infer));
  const std::string trace = palu::CheckTraceparent(text);
  PALU_CHECK(trace.empty() || trace == text);
  palu::PathOfTarget(text);
  palu::IsValidUtf8(text);
  PALU_CHECK(palu::SanitizeRequestId(text).size() <= 128);
  return 0;
}
