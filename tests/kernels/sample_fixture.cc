#include "tests/kernels/sample_fixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace palu {
namespace {

template <typename T, typename Field>
std::vector<T> Column(const std::vector<SampleCase>& rows, Field&& field) {
  std::vector<T> column;
  for (const SampleCase& row : rows) column.push_back(static_cast<T>(field(row)));
  return column;
}

template <typename Field>
Tensor Floats(DeviceArrays* arrays, const std::vector<SampleCase>& rows, Field&& field) {
  return arrays->Put(DType::kF32, Column<double>(rows, field), {static_cast<int64_t>(rows.size())});
}

template <typename Field>
Tensor Ints(DeviceArrays* arrays, const std::vector<SampleCase>& rows, Field&& field) {
  return arrays->PutInts(Column<int32_t>(rows, field), {static_cast<int64_t>(rows.size())});
}

template <typename Field>
Tensor Ints64(DeviceArrays* arrays, const std::vector<SampleCase>& rows, Field&& field) {
  return arrays->PutInts64(Column<int64_t>(rows, field), {static_cast<int64_t>(rows.size())});
}

void PutLists(DeviceArrays* arrays, const std::vector<SampleCase>& rows, SampleArgs* args) {
  std::vector<int32_t> history, history_offsets = {0}, bias_tokens, bias_offsets = {0};
  std::vector<int32_t> mask, mask_rows;
  std::vector<double> bias_values;
  const size_t words = (rows[0].logits.size() + 31) / 32;
  for (const SampleCase& row : rows) {
    history.insert(history.end(), row.prompt.begin(), row.prompt.end());
    history.insert(history.end(), row.output.begin(), row.output.end());
    history_offsets.push_back(static_cast<int32_t>(history.size()));
    for (const auto& [token, value] : row.bias) {
      bias_tokens.push_back(token);
      bias_values.push_back(value);
    }
    bias_offsets.push_back(static_cast<int32_t>(bias_tokens.size()));
    mask_rows.push_back(row.allowed.empty() ? -1 : static_cast<int32_t>(mask.size() / words));
    if (row.allowed.empty()) continue;
    std::vector<int32_t> bits(words, 0);
    for (int32_t token : row.allowed) {
      bits[token / 32] =
          static_cast<int32_t>(static_cast<uint32_t>(bits[token / 32]) | (1u << (token % 32)));
    }
    mask.insert(mask.end(), bits.begin(), bits.end());
  }
  const auto count = static_cast<int64_t>(rows.size());
  const auto size = [](const auto& list) { return static_cast<int64_t>(list.size()); };
  args->history = arrays->PutInts(history, {size(history)});
  args->history_offsets = arrays->PutInts(history_offsets, {count + 1});
  args->bias_tokens = arrays->PutInts(bias_tokens, {size(bias_tokens)});
  args->bias_values = arrays->Put(DType::kF32, bias_values, {size(bias_values)});
  args->bias_offsets = arrays->PutInts(bias_offsets, {count + 1});
  if (mask.empty()) return;
  const auto row_words = static_cast<int64_t>(words);
  args->mask = arrays->PutInts(mask, {size(mask) / row_words, row_words});
  args->mask_rows = arrays->PutInts(mask_rows, {count});
}

}  // namespace

Sampled RunSample(Backend* backend, const std::vector<SampleCase>& rows) {
  DeviceArrays arrays(backend);
  std::vector<double> logits;
  for (const SampleCase& row : rows) {
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
  }
  const auto count = static_cast<int64_t>(rows.size());
  using C = const SampleCase&;
  SampleArgs args;
  args.logits =
      arrays.Put(DType::kF32, logits, {count, static_cast<int64_t>(rows[0].logits.size())});
  args.temperature = Floats(&arrays, rows, [](C c) { return c.temperature; });
  args.top_k = Ints(&arrays, rows, [](C c) { return c.top_k; });
  args.top_p = Floats(&arrays, rows, [](C c) { return c.top_p; });
  args.min_p = Floats(&arrays, rows, [](C c) { return c.min_p; });
  args.seed = Ints64(&arrays, rows, [](C c) { return c.seed; });
  args.draw_index = Ints64(&arrays, rows, [](C c) { return c.draw_index; });
  args.forced_token = Ints(&arrays, rows, [](C c) { return c.forced_token; });
  args.num_logprobs = Ints(&arrays, rows, [](C c) { return c.num_logprobs; });
  args.repetition_penalty = Floats(&arrays, rows, [](C c) { return c.repetition; });
  args.presence_penalty = Floats(&arrays, rows, [](C c) { return c.presence; });
  args.frequency_penalty = Floats(&arrays, rows, [](C c) { return c.frequency; });
  args.prompt_lens = Ints(&arrays, rows, [](C c) { return c.prompt.size(); });
  PutLists(&arrays, rows, &args);
  args.tokens = arrays.NewInts({count});
  args.logprobs = arrays.NewFloats({count});
  args.ranks = arrays.NewInts({count});
  args.top_tokens = arrays.NewInts({count, kMaxLogprobs});
  args.top_logprobs = arrays.NewFloats({count, kMaxLogprobs});
  backend->Sample(args);
  return {.tokens = arrays.GetInts(args.tokens),
          .ranks = arrays.GetInts(args.ranks),
          .top_tokens = arrays.GetInts(args.top_tokens),
          .logprobs = arrays.Get(args.logprobs),
          .top_logprobs = arrays.Get(args.top_logprobs)};
}

std::map<int32_t, double> Distribution(const SampleCase& row) {
  std::vector<double> logits = row.logits;
  for (const auto& [token, value] : row.bias) logits[token] += value;
  std::set<int32_t> seen(row.prompt.begin(), row.prompt.end());
  std::map<int32_t, int> counts;
  for (int32_t token : row.output) seen.insert(token), ++counts[token];
  for (int32_t token : seen) {
    logits[token] =
        logits[token] > 0 ? logits[token] / row.repetition : logits[token] * row.repetition;
  }
  for (const auto& [token, count] : counts) {
    logits[token] -= row.presence + row.frequency * count;
  }
  if (!row.allowed.empty()) {
    const std::set<int32_t> allowed(row.allowed.begin(), row.allowed.end());
    for (size_t t = 0; t < logits.size(); ++t) {
      if (!allowed.contains(static_cast<int32_t>(t))) logits[t] = -INFINITY;
    }
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (row.top_k > 0 && row.top_k < static_cast<int>(order.size())) order.resize(row.top_k);
  const auto weight = [&](int32_t t) {
    return std::exp((logits[t] - logits[order[0]]) / row.temperature);
  };
  double total = 0, sum = 0;
  for (int32_t t : order) total += weight(t);
  std::map<int32_t, double> kept;
  for (int32_t t : order) {
    if (weight(t) >= row.min_p && weight(t) > 0) kept[t] = weight(t);
    sum += weight(t);
    if (row.top_p < 1.0f && sum >= row.top_p * total) break;
  }
  total = 0;
  for (const auto& [token, value] : kept) total += value;
  for (auto& [token, value] : kept) value /= total;
  return kept;
}

std::vector<double> RawLogprobs(const SampleCase& row) {
  const double largest = *std::max_element(row.logits.begin(), row.logits.end());
  double total = 0;
  for (double logit : row.logits) total += std::exp(logit - largest);
  std::vector<double> logprobs;
  for (double logit : row.logits) logprobs.push_back(logit - largest - std::log(total));
  return logprobs;
}

}  // namespace palu
