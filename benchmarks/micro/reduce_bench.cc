// Speed of Reduce() as an all-reduce calls it: every rank's buffer is source and destination.
// bytes_per_second counts what is read plus what is written, 2 · ranks · bytes per call.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hora/kernels/cpu_features.h"
#include "hora/kernels/reduce.h"

namespace hora {
namespace {

constexpr std::size_t kAlignment = 4096;

// One buffer per rank, page-aligned as in shared memory. Zeros: a sum that stays what it is,
// however often it is taken in place.
class RankBuffers {
 public:
  RankBuffers(int ranks, std::size_t bytes)
      : storage_(static_cast<std::size_t>(ranks) * (bytes + kAlignment) + kAlignment) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    std::byte* next = storage_.data() + (kAlignment - address % kAlignment);
    for (int rank = 0; rank < ranks; ++rank, next += bytes + kAlignment) {
      sources_.push_back(next);
      destinations_.push_back(next);
    }
  }

  const std::vector<const std::byte*>& sources() const { return sources_; }
  const std::vector<std::byte*>& destinations() const { return destinations_; }

 private:
  std::vector<std::byte> storage_;
  std::vector<const std::byte*> sources_;
  std::vector<std::byte*> destinations_;
};

void BenchmarkReduce(benchmark::State& state, CpuLevel level, const ReduceSpec& spec, int ranks,
                     std::size_t bytes) {
  SetCpuLevel(level);
  const RankBuffers buffers(ranks, bytes);
  for (auto _ : state) {
    Reduce(spec, buffers.sources(), buffers.destinations(), bytes / SizeOf(spec.dtype));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * ranks * static_cast<std::int64_t>(bytes));
  SetCpuLevel(DetectedCpuLevel());
}

void Register(CpuLevel level, const ReduceSpec& spec, int ranks, std::size_t bytes) {
  const std::string name = "reduce/" + std::string(ToString(level)) + "/" +
                           std::string(ToString(spec.op)) + "/" +
                           std::string(ToString(spec.dtype)) + "/ranks:" + std::to_string(ranks) +
                           "/bytes:" + std::to_string(bytes);
  benchmark::RegisterBenchmark(name.c_str(), BenchmarkReduce, level, spec, ranks, bytes);
}

void RegisterAll() {
  for (const CpuLevel level :
       {CpuLevel::kScalar, CpuLevel::kNeon, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    SetCpuLevel(level);
    if (ActiveCpuLevel() != level) continue;
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (const int ranks : {2, 4, 8}) {
        Register(level, {.dtype = dtype}, ranks, 64u << 10);
      }
      Register(level, {.dtype = dtype}, 2, 4);
      Register(level, {.dtype = dtype, .op = ReduceOp::kMax}, 2, 64u << 10);
      Register(level, {.dtype = dtype, .op = ReduceOp::kAverage, .divisor = 2}, 2, 64u << 10);
    }
    Register(level, {.dtype = DType::kFloat64}, 2, 64u << 10);
    Register(level, {.dtype = DType::kInt64}, 2, 64u << 10);
    Register(level, {.dtype = DType::kComplex64}, 2, 64u << 10);
  }
  SetCpuLevel(DetectedCpuLevel());
  // The same code on every level.
  for (const DType dtype : {DType::kFloat8E4M3FN, DType::kFloat8E5M2}) {
    Register(CpuLevel::kScalar, {.dtype = dtype}, 2, 64u << 10);
  }
}

}  // namespace
}  // namespace hora

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  hora::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
