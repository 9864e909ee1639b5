// How fast the gradients of ResNet-50 get into one buffer and out again: by one launch each, by one
// copy per tensor, and what a device copies at all. Prints one line of JSON per way; bytes are
// counted as read and as written.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hora/base/check.h"
#include "hora/cuda/cuda_runtime.h"
#include "hora/cuda/device_memory.h"

namespace hora {
namespace {

std::vector<std::uint64_t> ResNet50() {
  std::vector<std::uint64_t> elements;
  const auto convolution = [&](std::uint64_t weights, std::uint64_t channels) {
    elements.insert(elements.end(), {weights * channels, channels, channels});  // and batch norm
  };
  convolution(3 * 7 * 7, 64);
  std::uint64_t channels = 64, width = 64;
  for (const int blocks : {3, 4, 6, 3}) {
    for (int block = 0; block < blocks; ++block) {
      convolution(channels, width);
      convolution(width * 3 * 3, width);
      convolution(width, 4 * width);
      if (block == 0) convolution(channels, 4 * width);
      channels = 4 * width;
    }
    width *= 2;
  }
  elements.insert(elements.end(), {channels * 1000, 1000});
  return elements;
}

void Expect(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

template <class T>
T Value(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}

class Bench {
 public:
  explicit Bench(std::shared_ptr<DeviceRuntime> gpu)
      : gpu_(std::move(gpu)),
        stream_(Value(OwnedStream::Create(gpu_, 0, true))),
        events_(std::make_shared<EventPool>(gpu_, 0)),
        tensors_(gpu_, 0),
        fused_(gpu_, 0) {}

  // The median of rounds, each of several calls in a row: seconds per call.
  double Seconds(const std::function<void()>& call) {
    constexpr int kRounds = 11, kCalls = 20;
    std::vector<double> seconds;
    for (int round = -2; round < kRounds; ++round) {  // two to warm up
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < kCalls; ++i) call();
      const EventPool::Lease event = Value(events_->Take());
      Expect(gpu_->Record(*event, stream_.get()));
      Expect(gpu_->Await(*event, begin + std::chrono::seconds(60)));
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      if (round >= 0) seconds.push_back(took.count() / kCalls);
    }
    std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
    return seconds[kRounds / 2];
  }

  void Report(const char* way, std::uint64_t bytes, double seconds) {
    fmt::print("{{\"way\": \"{}\", \"bytes\": {}, \"us\": {:.1f}, \"GB/s\": {:.1f}}}\n", way, bytes,
               seconds * 1e6, static_cast<double>(bytes) / seconds / 1e9);
  }

  void Run() {
    const std::vector<std::uint64_t> elements = ResNet50();
    constexpr std::uint64_t kTensorAlignment = 512, kFusedAlignment = 64;
    std::uint64_t tensor_bytes = 0, fused_bytes = 0, bytes = 0;
    std::vector<PieceCopy> pack, unpack;
    const std::span<std::byte> tensors = Value(tensors_.Reserve(1u << 30));
    const std::span<std::byte> fused = Value(fused_.Reserve(1u << 30));
    for (const std::uint64_t count : elements) {
      std::byte* const tensor = tensors.data() + tensor_bytes;
      std::byte* const place = fused.data() + fused_bytes;
      pack.push_back({tensor, place, count});
      unpack.push_back({place, tensor, count});
      bytes += 4 * count;
      tensor_bytes += (4 * count + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
      fused_bytes += (4 * count + kFusedAlignment - 1) / kFusedAlignment * kFusedAlignment;
    }
    const DeviceStream stream = stream_.get();
    Report("one large copy", 2 * fused.size(), Seconds([&] {
             Expect(gpu_->Copy(fused.data(), tensors.data(), fused.size(), stream));
           }));
    Report("one copy of as many bytes, there and back", 4 * bytes, Seconds([&] {
             Expect(gpu_->Copy(fused.data(), tensors.data(), bytes, stream));
             Expect(gpu_->Copy(tensors.data(), fused.data(), bytes, stream));
           }));
    Report("pack and unpack", 4 * bytes, Seconds([&] {
             Expect(gpu_->CopyMany(pack, {}, stream));
             Expect(gpu_->CopyMany(unpack, {}, stream));
           }));
    const ElementCopy narrow{.from = DType::kFloat32, .to = DType::kFloat16};
    const ElementCopy widen{.from = DType::kFloat16, .to = DType::kFloat32, .divisor = 8};
    Report("pack and unpack as float16", 3 * bytes, Seconds([&] {
             Expect(gpu_->CopyMany(pack, narrow, stream));
             Expect(gpu_->CopyMany(unpack, widen, stream));
           }));
    Report("one copy per tensor, there and back", 4 * bytes, Seconds([&] {
             for (const auto* pieces : {&pack, &unpack}) {
               for (const PieceCopy& piece : *pieces) {
                 Expect(gpu_->Copy(piece.to, piece.from, 4 * piece.elements, stream));
               }
             }
           }));
  }

 private:
  std::shared_ptr<DeviceRuntime> gpu_;
  OwnedStream stream_;
  std::shared_ptr<EventPool> events_;
  DeviceBuffer tensors_, fused_;
};

}  // namespace
}  // namespace hora

int main() {
  const auto gpu = hora::OpenCuda(HORA_PLUGINS);
  if (!gpu) {
    std::fprintf(stderr, "pack_bench: skipped: %s\n", gpu.error().message().c_str());
    return 0;
  }
  try {
    const hora::DeviceFacts facts = hora::Value((*gpu)->Facts(0));
    fmt::print("{{\"gpu\": \"{}\", \"runtime\": \"{}\"}}\n", facts.name, (*gpu)->description());
    hora::Bench(*gpu).Run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pack_bench: %s\n", error.what());
    return 1;
  }
}
