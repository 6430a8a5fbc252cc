// Times decode attention over latent caches on a CUDA device and prints one JSON line per case.
// A pool holds several layers, which are attended in turn as a model does, so that no case lives in
// the cache of the device. latent_decode_bench.py sets the lines beside PyTorch's dense attention.
// Takes [--quick] [--only TEXT]..., parts of the labels of the wanted cases such as "fp8" or
// "1,48", or one case: KV_HEADS KEY_GROUP KEY_RANK VALUE_GROUP VALUE_RANK FORMAT CONTEXT BATCH.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace palu {
namespace {

constexpr int kHeadDim = 128;
constexpr int kBlockTokens = 64;
constexpr int kQueryHeads = 32;
constexpr int64_t kMaxContext = 262144;
constexpr int64_t kColdBytes = 384 << 20;
constexpr int kCallsPerStep = 32;  // as many as a model has layers

struct Case {
  int kv_heads;
  int key_group, key_rank;
  int value_group, value_rank;
  LatentFormat format;
  int64_t context;
  int batch;

  bool dense() const { return key_rank == 0; }  // rank 0: the heads themselves, group 1
  int KeyRow() const { return dense() ? kHeadDim : key_rank; }
  int ValueRow() const { return dense() ? kHeadDim : value_rank; }
  // "kv_heads key_group,key_rank value_group,value_rank format context x batch"
  std::string Label() const {
    const auto side = [](int group, int rank) {
      return std::to_string(group) + "," + std::to_string(rank) + " ";
    };
    return std::to_string(kv_heads) + " " + side(key_group, key_rank) +
           side(value_group, value_rank) + Name(format) + " " + std::to_string(context) + " x " +
           std::to_string(batch);
  }
};

std::vector<uint16_t> RandomBF16(size_t count, float deviation) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) {
    const float x = normal(engine);
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    value = static_cast<uint16_t>(bits >> 16);
  }
  return values;
}

// Cosines and sines of kMaxContext positions, as RopeArgs wants them.
std::vector<float> Angles() {
  constexpr int kHalf = kHeadDim / 2;
  std::vector<float> angles(kMaxContext * kHeadDim);
  for (int i = 0; i < kHalf; ++i) {
    const double frequency = std::pow(10000.0, -2.0 * i / kHeadDim);
    for (int64_t t = 0; t < kMaxContext; ++t) {
      const double angle = static_cast<double>(t) * frequency;
      angles[t * kHeadDim + i] = static_cast<float>(std::cos(angle));
      angles[t * kHeadDim + kHalf + i] = static_cast<float>(std::sin(angle));
    }
  }
  return angles;
}

// Owns what one case needs on the device.
class Problem {
 public:
  Problem(Backend* backend, const Case& c) : backend_(backend), case_(c) {
    const int64_t blocks = c.batch * (c.context / kBlockTokens);
    const int64_t layer_bytes = c.batch * c.context * TokenBytes();
    layers_ = static_cast<int>(std::max<int64_t>(2, kColdBytes / layer_bytes));
    if (layer_bytes > kColdBytes) layers_ = 1;
    key_segments_ = MakeSegments(c.key_group, c.KeyRow());
    value_segments_ = MakeSegments(c.value_group, c.ValueRow());
    pool_.block_bytes = offset_;
    pool_.block_size = kBlockTokens;
    pool_.num_blocks = blocks;
    pool_buffer_ = backend->Allocate(blocks * offset_);
    pool_.data = static_cast<std::byte*>(pool_buffer_.data());
    Fill(blocks);
    MakeInputs(blocks);
  }

  // Bytes that one token of one layer takes in the cache.
  int64_t TokenBytes() const {
    const int64_t scale = IsQuantized(case_.format) ? kScaleBytes : 0;
    return case_.kv_heads / case_.key_group * (RowBytes(case_.format, case_.KeyRow()) + scale) +
           case_.kv_heads / case_.value_group * (RowBytes(case_.format, case_.ValueRow()) + scale);
  }

  // Median microseconds of one attention call. Calls are recorded and replayed, as the engine's
  // decode steps and the dense attention that they are set beside.
  double Time() {
    using Clock = std::chrono::steady_clock;
    static uint64_t key = 0;
    ++key;
    const int rounds = std::max(1, kCallsPerStep / layers_);
    const int calls = rounds * layers_;
    const auto run = [&](int steps) {
      backend_->Synchronize();
      const auto start = Clock::now();
      for (int i = 0; i < steps; ++i) {
        backend_->RunStep(key, [&] {
          for (int call = 0; call < calls; ++call) Attend(call % layers_);
        });
      }
      backend_->Synchronize();
      return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / steps;
    };
    run(3);
    const int steps = std::max(1, static_cast<int>(20000 / run(2)));
    std::vector<double> times;
    for (int i = 0; i < 7; ++i) times.push_back(run(steps));
    std::sort(times.begin(), times.end());
    return times[3] / calls;
  }

 private:
  std::vector<LatentSegment> MakeSegments(int group, int rank) {
    std::vector<LatentSegment> segments;
    const auto align = [this] { offset_ = (offset_ + kPlaneAlignment - 1) / 16 * 16; };
    for (int i = 0; i < layers_ * case_.kv_heads / group; ++i) {
      LatentSegment s;
      s.format = case_.format;
      s.rank = rank;
      s.row_bytes = RowBytes(case_.format, rank);
      s.codes_offset = offset_;
      offset_ += s.row_bytes * kBlockTokens;
      align();
      s.scales_offset = offset_;
      if (IsQuantized(case_.format)) offset_ += kScaleBytes * kBlockTokens;
      align();
      segments.push_back(s);
    }
    return segments;
  }

  LatentProjection Side(bool key, int layer) const {
    const int group = key ? case_.key_group : case_.value_group;
    const auto& segments = key ? key_segments_ : value_segments_;
    const size_t count = case_.kv_heads / group;
    LatentProjection side;
    side.groups = std::span(segments).subspan(layer * count, count);
    side.heads_per_group = group;
    side.up = key ? key_up_ : value_up_;
    return side;
  }

  void Fill(int64_t blocks) {
    const int64_t rows = std::min<int64_t>(blocks * kBlockTokens, 1024);
    for (const bool key : {true, false}) {
      const int64_t columns = key ? case_.kv_heads / case_.key_group * case_.KeyRow()
                                  : case_.kv_heads / case_.value_group * case_.ValueRow();
      const std::vector<uint16_t> values = RandomBF16(rows * columns, 1.0f);
      const Buffer x = Upload(values.data(), values.size() * 2);
      std::vector<int64_t> slots(rows);
      const Buffer slot_buffer = backend_->Allocate(rows * sizeof(int64_t));
      for (int64_t first = 0; first < blocks * kBlockTokens; first += rows) {
        for (int64_t i = 0; i < rows; ++i) {
          slots[i] = first + i < blocks * kBlockTokens ? first + i : -1;
        }
        backend_->CopyToDevice(slot_buffer.data(), slots.data(), rows * sizeof(int64_t));
        for (int layer = 0; layer < layers_; ++layer) {
          backend_->LatentWrite({.x = x.View(DType::kBF16, {rows, columns}),
                                 .slot_mapping = slot_buffer.View(DType::kI64, {rows}),
                                 .projection = Side(key, layer),
                                 .pool = pool_});
        }
      }
      backend_->Synchronize();
    }
  }

  Buffer Upload(const void* data, size_t bytes) {
    Buffer buffer = backend_->Allocate(bytes);
    backend_->CopyToDevice(buffer.data(), data, bytes);
    return buffer;
  }

  Tensor Keep(const void* data, size_t bytes, DType type, std::initializer_list<int64_t> shape) {
    buffers_.push_back(Upload(data, bytes));
    return buffers_.back().View(type, shape);
  }

  Tensor KeepRandom(float deviation, std::initializer_list<int64_t> shape) {
    const Tensor view(nullptr, DType::kBF16, shape);
    const std::vector<uint16_t> values = RandomBF16(view.num_elements(), deviation);
    return Keep(values.data(), values.size() * 2, DType::kBF16, shape);
  }

  void MakeInputs(int64_t blocks) {
    const Case& c = case_;
    for (int g = 0; !c.dense() && g < c.kv_heads / c.key_group; ++g) {
      key_up_.push_back(
          KeepRandom(1.0f / std::sqrt(c.key_rank), {int64_t{c.key_group} * kHeadDim, c.key_rank}));
    }
    for (int g = 0; !c.dense() && g < c.kv_heads / c.value_group; ++g) {
      value_up_.push_back(KeepRandom(1.0f / std::sqrt(c.value_rank),
                                     {int64_t{c.value_group} * kHeadDim, c.value_rank}));
    }
    q_ = KeepRandom(1.0f, {c.batch, kQueryHeads, kHeadDim});
    out_ = KeepRandom(1.0f, {c.batch, kQueryHeads, kHeadDim});
    std::vector<int32_t> cu(c.batch + 1), lens(c.batch, static_cast<int32_t>(c.context));
    for (int i = 0; i <= c.batch; ++i) cu[i] = i;
    cu_ = Keep(cu.data(), cu.size() * 4, DType::kI32, {c.batch + 1});
    lens_ = Keep(lens.data(), lens.size() * 4, DType::kI32, {c.batch});
    std::vector<int32_t> table(blocks);
    for (int64_t i = 0; i < blocks; ++i) table[i] = static_cast<int32_t>(i);
    std::shuffle(table.begin(), table.end(), std::mt19937(2));
    tables_ = Keep(table.data(), table.size() * 4, DType::kI32, {c.batch, blocks / c.batch});
    static const std::vector<float> angles = Angles();
    cos_sin_ = Keep(angles.data(), c.context * kHeadDim * 4, DType::kF32, {c.context, kHeadDim});
  }

  void Attend(int layer) {
    LatentAttentionArgs args;
    args.q = q_;
    args.out = out_;
    args.cu_seqlens = cu_;
    args.context_lens = lens_;
    args.block_tables = tables_;
    args.pool = pool_;
    args.key = Side(true, layer);
    args.value = Side(false, layer);
    args.cos_sin = cos_sin_;
    args.kv_heads = case_.kv_heads;
    args.scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
    backend_->LatentAttention(args);
  }

  Backend* backend_;
  Case case_;
  int layers_ = 1;
  int64_t offset_ = 0;
  std::vector<LatentSegment> key_segments_, value_segments_;
  LatentPool pool_;
  Buffer pool_buffer_;
  std::vector<Buffer> buffers_;
  std::vector<Tensor> key_up_, value_up_;
  Tensor q_, out_, cu_, lens_, tables_, cos_sin_;
};

// GB/s of a copy within the device, bytes read plus bytes written.
double CopyBandwidth(Backend* backend) {
  const size_t bytes = size_t{2} << 30;
  const Buffer from = backend->Allocate(bytes);
  const Buffer to = backend->Allocate(bytes);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    backend->Synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int j = 0; j < 5; ++j) backend->CopyOnDevice(to.data(), from.data(), bytes);
    backend->Synchronize();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 5 * 2e-9 * static_cast<double>(bytes) / seconds.count());
  }
  return best;
}

void Report(Backend* backend, const Case& c, double bandwidth) {
  Problem problem(backend, c);
  const double us = problem.Time();
  const double bytes = static_cast<double>(c.batch * c.context * problem.TokenBytes());
  const double gbps = bytes / us * 1e-3;
  std::printf(
      "{\"kv_heads\": %d, \"key\": [%d, %d], \"value\": [%d, %d], \"format\": \"%s\", "
      "\"context\": %lld, \"batch\": %d, \"us\": %.1f, \"gbps\": %.0f, \"percent\": %.1f, "
      "\"bound_us\": %.1f}\n",
      c.kv_heads, c.key_group, c.key_rank, c.value_group, c.value_rank, Name(c.format),
      static_cast<long long>(c.context), c.batch, us, gbps, 100 * gbps / bandwidth,
      bytes / bandwidth * 1e-3);
  std::fflush(stdout);
}

int One(char** argv) {
  BackendOptions options;
  options.device = "cuda:0";
  const std::unique_ptr<Backend> backend = CreateBackend(options);
  const auto number = [&](int i) { return std::atoi(argv[i]); };
  const Case c{number(0), number(1), number(2),
               number(3), number(4), ParseLatentFormat(argv[5]).value(),
               number(6), number(7)};
  Report(backend.get(), c, CopyBandwidth(backend.get()));
  return 0;
}

struct Split {
  int key_group, key_rank, value_group, value_rank;
};

// The shapes that the marks are set for, and dense caches.
std::vector<Case> KeyCases() {
  std::vector<Case> cases;
  for (const int kv_heads : {32, 8}) {
    for (const LatentFormat format :
         {LatentFormat::kBF16, LatentFormat::kFp8, LatentFormat::kInt4}) {
      for (const auto& [context, batch] :
           std::vector<std::pair<int64_t, int>>{{65536, 1}, {kMaxContext, 1}, {16384, 32}}) {
        cases.push_back({kv_heads, 1, 32, 1, 96, format, context, batch});
        if (context == kMaxContext) continue;
        cases.push_back({kv_heads, 1, 0, 1, 0, format, context, batch});
        if (context != 65536) continue;
        cases.push_back({kv_heads, 2, 64, 2, 192, format, context, batch});
      }
    }
    cases.push_back({kv_heads, 1, 32, 1, 96, LatentFormat::kInt8, 65536, 1});
    cases.push_back({kv_heads, 1, 32, 1, 96, LatentFormat::kBF16, 4096, 1});
  }
  return cases;
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  // Half of the numbers kept (the fifth: three eighths); the last: dense.
  const std::vector<Split> splits = {{1, 32, 1, 96}, {2, 64, 2, 192},  {1, 48, 1, 80},
                                     {1, 64, 1, 64}, {4, 128, 4, 256}, {1, 0, 1, 0}};
  const std::vector<std::pair<int64_t, int>> sizes = {
      {4096, 1}, {16384, 1}, {65536, 1}, {kMaxContext, 1}, {16384, 32}};
  for (const int kv_heads : {32, 8}) {
    for (const Split& s : splits) {
      for (const LatentFormat format :
           {LatentFormat::kBF16, LatentFormat::kFp8, LatentFormat::kInt8, LatentFormat::kInt4,
            LatentFormat::kInt3, LatentFormat::kInt2}) {
        const bool rare = format == LatentFormat::kInt3 || format == LatentFormat::kInt2;
        for (const auto& [context, batch] : sizes) {
          if (rare && (context != 65536)) continue;
          cases.push_back({kv_heads, s.key_group, s.key_rank, s.value_group, s.value_rank, format,
                           context, batch});
        }
      }
    }
  }
  return cases;
}

bool Wanted(const Case& c, const std::vector<std::string>& only) {
  const std::string label = c.Label();
  return only.empty() || std::any_of(only.begin(), only.end(), [&](const std::string& part) {
           return label.find(part) != std::string::npos;
         });
}

int Main(bool quick, const std::vector<std::string>& only) {
  BackendOptions options;
  options.device = "cuda:0";
  const std::unique_ptr<Backend> backend = CreateBackend(options);
  const double bandwidth = CopyBandwidth(backend.get());
  std::printf("{\"device\": \"%s\", \"copy_gbps\": %.0f}\n", backend->isa().c_str(), bandwidth);
  for (const Case& c : quick ? KeyCases() : AllCases()) {
    if (Wanted(c, only)) Report(backend.get(), c, bandwidth);
  }
  return 0;
}

}  // namespace
}  // namespace palu

int main(int argc, char** argv) {
  if (argc == 9) return palu::One(argv + 1);
  bool quick = false;
  std::vector<std::string> only;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--quick") {
      quick = true;
    } else if (option == "--only" && i + 1 < argc) {
      only.push_back(argv[++i]);
    } else {
      std::fprintf(stderr, "%s: expected --quick or --only TEXT\n", option.c_str());
      return 2;
    }
  }
  return palu::Main(quick, only);
}
