#include "server/openai_logprobs.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace palu {
namespace {

// JSON has no -inf; clients of vLLM know this number.
constexpr double kLowestLogprob = -9999.0;

double Finite(float logprob) {
  return std::isfinite(logprob) ? std::max<double>(logprob, kLowestLogprob) : kLowestLogprob;
}

nlohmann::ordered_json Bytes(const std::string& piece) {
  nlohmann::ordered_json bytes = nlohmann::ordered_json::array();
  for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

nlohmann::ordered_json ChatEntry(int32_t id, float logprob, const Tokenizer& tokenizer) {
  const std::string piece = TokenPiece(tokenizer, id);
  return {{"token", piece}, {"logprob", Finite(logprob)}, {"bytes", Bytes(piece)}};
}

nlohmann::ordered_json RankedEntry(float logprob, int rank, const std::string& piece) {
  return {{"logprob", Finite(logprob)}, {"rank", rank}, {"decoded_token", piece}};
}

// Length of the sequence that a lead byte announces; 0: no lead byte.
size_t SequenceLength(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  return lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
}

// Range of the second byte: no overlong forms, no surrogates, nothing past U+10FFFF.
bool SecondByteFits(unsigned char lead, unsigned char second) {
  if (lead == 0xE0) return second >= 0xA0 && second <= 0xBF;
  if (lead == 0xED) return second >= 0x80 && second <= 0x9F;
  if (lead == 0xF0) return second >= 0x90 && second <= 0xBF;
  if (lead == 0xF4) return second >= 0x80 && second <= 0x8F;
  return second >= 0x80 && second <= 0xBF;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = SequenceLength(lead);
    if (length == 0 || i + length > text.size()) return false;
    for (size_t k = 1; k < length; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if (k == 1 ? !SecondByteFits(lead, byte) : (byte & 0xC0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

std::string TokenPiece(const Tokenizer& tokenizer, int32_t id) {
  return tokenizer.is_special(id) ? tokenizer.TokenName(id) : tokenizer.TokenBytes(id);
}

std::string LegacyTokenString(const Tokenizer& tokenizer, int32_t id) {
  std::string piece = TokenPiece(tokenizer, id);
  if (IsValidUtf8(piece)) return piece;
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text = "bytes:";
  for (const char c : piece) {
    const auto byte = static_cast<unsigned char>(c);
    text += "\\x";
    text += kHex[byte >> 4];
    text += kHex[byte & 15];
  }
  return text;
}

nlohmann::ordered_json ChatLogprobsJson(const std::vector<OutputToken>& tokens, int num_top,
                                        const Tokenizer& tokenizer) {
  nlohmann::ordered_json content = nlohmann::ordered_json::array();
  for (const OutputToken& token : tokens) {
    nlohmann::ordered_json entry = ChatEntry(token.token, token.logprob, tokenizer);
    nlohmann::ordered_json& top = entry["top_logprobs"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < token.top.size() && static_cast<int>(i) < num_top; ++i) {
      top.push_back(ChatEntry(token.top[i].token, token.top[i].logprob, tokenizer));
    }
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

nlohmann::ordered_json PromptLogprobsJson(const std::vector<OutputToken>& tokens, int num_top,
                                          const Tokenizer& tokenizer) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array({nullptr});
  for (const OutputToken& token : tokens) {
    nlohmann::ordered_json entry;
    entry[std::to_string(token.token)] =
        RankedEntry(token.logprob, token.rank, TokenPiece(tokenizer, token.token));
    for (size_t i = 0; i < token.top.size() && static_cast<int>(i) < num_top; ++i) {
      const TokenLogprob& top = token.top[i];
      if (top.token == token.token) continue;
      entry[std::to_string(top.token)] =
          RankedEntry(top.logprob, static_cast<int>(i) + 1, TokenPiece(tokenizer, top.token));
    }
    list.push_back(std::move(entry));
  }
  return list;
}

void LegacyLogprobs::AddToken(int32_t id, bool skip_special, const Tokenizer& tokenizer) {
  tokens_.push_back(LegacyTokenString(tokenizer, id));
  offsets_.push_back(offset_);
  if (tokenizer.is_special(id) && skip_special) return;
  for (const char c : TokenPiece(tokenizer, id)) {
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) ++offset_;
  }
}

void LegacyLogprobs::AddScore(const OutputToken& token, int num_top, const Tokenizer& tokenizer) {
  logprobs_.push_back(Finite(token.logprob));
  nlohmann::ordered_json top = nlohmann::ordered_json::object();
  for (size_t i = 0; i < token.top.size() && static_cast<int>(i) < num_top; ++i) {
    top[LegacyTokenString(tokenizer, token.top[i].token)] = Finite(token.top[i].logprob);
  }
  top[LegacyTokenString(tokenizer, token.token)] = Finite(token.logprob);
  top_.push_back(std::move(top));
}

void LegacyLogprobs::AddPrompt(const std::vector<int32_t>& ids,
                               const std::vector<OutputToken>& scored, int num_top,
                               bool skip_special, const Tokenizer& tokenizer) {
  for (size_t i = 0; i < ids.size(); ++i) {
    AddToken(ids[i], skip_special, tokenizer);
    if (i > 0 && i - 1 < scored.size()) {
      AddScore(scored[i - 1], num_top, tokenizer);
    } else {
      logprobs_.push_back(nullptr);
      top_.push_back(nullptr);
    }
  }
}

void LegacyLogprobs::Add(const std::vector<OutputToken>& tokens, int num_top, bool skip_special,
                         const Tokenizer& tokenizer) {
  for (const OutputToken& token : tokens) {
    AddToken(token.token, skip_special, tokenizer);
    AddScore(token, num_top, tokenizer);
  }
}

nlohmann::ordered_json LegacyLogprobs::Take() {
  nlohmann::ordered_json taken = {{"text_offset", std::move(offsets_)},
                                  {"token_logprobs", std::move(logprobs_)},
                                  {"tokens", std::move(tokens_)},
                                  {"top_logprobs", std::move(top_)}};
  tokens_ = logprobs_ = top_ = offsets_ = nlohmann::ordered_json::array();
  return taken;
}

}  // namespace palu
