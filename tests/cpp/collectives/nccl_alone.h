// A rank by itself that calls NCCL for everything, on the memory of any device: of a GPU with NCCL,
// or of a simulated one with a fake of it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "collectives/backend_conformance.h"
#include "hora/collectives/nccl/nccl_backend.h"
#include "hora/cuda/current_device.h"
#include "hora/cuda/device_memory.h"

namespace hora {

// Twins in device memory of all that the streams of one call have on the host: what lies together
// or at an odd address there does so here.
class TwinExtents {
 public:
  explicit TwinExtents(const CollectiveCall& call) {
    std::vector<std::pair<std::byte*, std::byte*>> pieces;
    const auto add = [&](std::vector<ByteStream> streams) {
      for (ByteStream& stream : streams) {
        stream.ForEachPiece(0, stream.size(), [&](std::span<std::byte> piece) {
          pieces.emplace_back(piece.data(), piece.data() + piece.size());
        });
      }
    };
    add(call.inputs);
    add(call.outputs);
    std::ranges::sort(pieces);
    std::byte* begin = nullptr;
    for (const auto& [from, to] : pieces) {
      if (begin != nullptr && from <= extents_[begin].end) {
        extents_[begin].end = std::max(extents_[begin].end, to);
      } else {
        begin = from;
        extents_[begin].end = to;
      }
    }
    for (auto& [from, extent] : extents_) {
      extent.offset = (bytes_ + 255) / 256 * 256 + reinterpret_cast<std::uintptr_t>(from) % 256;
      bytes_ = extent.offset + static_cast<std::size_t>(extent.end - from);
    }
  }

  std::size_t bytes() const { return bytes_; }

  // copy(host, offset, bytes) of everything.
  template <class Copy>
  Status ForEach(Copy&& copy) const {
    Status status;
    for (const auto& [from, extent] : extents_) {
      if (!status.ok()) break;
      status = copy(from, extent.offset, static_cast<std::size_t>(extent.end - from));
    }
    return status;
  }

  std::vector<ByteStream> Of(std::vector<ByteStream> streams, std::byte* memory) const {
    for (ByteStream& stream : streams) {
      std::vector<std::span<std::byte>> twins;
      stream.ForEachPiece(0, stream.size(), [&](std::span<std::byte> piece) {
        const auto found = std::prev(extents_.upper_bound(piece.data()));
        twins.emplace_back(memory + found->second.offset + (piece.data() - found->first),
                           piece.size());
      });
      stream = ByteStream(std::move(twins));
    }
    return streams;
  }

 private:
  struct Extent {
    std::byte* end = nullptr;
    std::size_t offset = 0;
  };
  std::map<std::byte*, Extent> extents_;  // by where they begin on the host
  std::size_t bytes_ = 0;
};

// A NcclBackend for calls on memory of the host, as the tests of every backend have them.
class NcclOnDevice final : public CollectiveBackend {
 public:
  NcclOnDevice(std::shared_ptr<DeviceRuntime> runtime,
               std::unique_ptr<NcclCommunicator> communicator)
      : runtime_(std::move(runtime)),
        stream_(OwnedStream::Create(runtime_, 0, false).value()),
        done_(std::make_shared<EventPool>(runtime_, 0)->Take().value()),
        memory_(runtime_, 0),
        backend_(std::make_unique<NcclBackend>(runtime_, 0, std::move(communicator),
                                               NcclBackendOptions{.call_alone = true})) {}

  std::string_view name() const override { return backend_->name(); }
  bool Supports(const OpParams& params) const override {
    OpParams on_device = params;
    on_device.device.type = DeviceType::kCuda;
    return backend_->Supports(on_device);
  }
  void Retune(const Tuning& tuning) override { backend_->Retune(tuning); }

  Status Execute(CollectiveCall& call) override {
    const TwinExtents twins(call);
    const Result<std::span<std::byte>> room = memory_.Reserve(twins.bytes());
    if (!room) return room.error();
    std::byte* const memory = room->data();
    Status status = twins.ForEach([&](std::byte* host, std::size_t at, std::size_t bytes) {
      return runtime_->Copy(memory + at, host, bytes, stream_.get());
    });
    if (!status.ok()) return status;
    CollectiveCall twin = call;
    twin.params.device.type = DeviceType::kCuda;
    twin.inputs = twins.Of(call.inputs, memory);
    twin.outputs = twins.Of(call.outputs, memory);
    twin.stream = stream_.get();
    if (status = backend_->Execute(twin); !status.ok()) return status;
    status = twins.ForEach([&](std::byte* host, std::size_t at, std::size_t bytes) {
      return runtime_->Copy(host, memory + at, bytes, stream_.get());
    });
    if (status.ok()) status = runtime_->Record(*done_, stream_.get());
    if (!status.ok()) return status;
    const auto deadline = SteadyClock::Instance().Now() + std::chrono::seconds(60);
    status = runtime_->Await(*done_, deadline);
    return status.ok() ? backend_->Check() : status;
  }

 private:
  const std::shared_ptr<DeviceRuntime> runtime_;
  const OwnedStream stream_;
  const EventPool::Lease done_;
  DeviceBuffer memory_;
  const std::unique_ptr<NcclBackend> backend_;
};

class NcclAlone final : public BackendGroup {
 public:
  NcclAlone(std::shared_ptr<DeviceRuntime> runtime, std::shared_ptr<const NcclLibrary> library) {
    const ShareId share = [](const std::string& mine, TimePoint) -> Result<std::string> {
      return mine;
    };
    const CurrentDevice current(*runtime, 0);
    auto made = NcclCommunicator::Create(
        std::move(library), share,
        {.names = {}, .name = "alone", .patience = std::chrono::seconds(60), .lost = {}});
    EXPECT_TRUE(made) << made.error().message();
    if (made) backend_ = std::make_unique<NcclOnDevice>(std::move(runtime), std::move(*made));
  }

  bool is_there() const { return backend_ != nullptr; }
  int size() const override { return 1; }
  CollectiveBackend& backend(int) override { return *backend_; }

 private:
  std::unique_ptr<NcclOnDevice> backend_;
};

// Every kind of operation, on every dtype with every reduction, in place and not, scaled and not,
// in one piece and in many, against the host's kernels.
inline void ExpectAllOfNcclAlone(std::shared_ptr<DeviceRuntime> runtime,
                                 std::shared_ptr<const NcclLibrary> library) {
  NcclAlone group(std::move(runtime), std::move(library));
  if (!group.is_there()) return;
  const Conformance conformance{
      .in_rank_order = false, .every_reduction = false, .edges = {4096, 40000}};
  ExpectAllreduces(group, conformance);
  ExpectEveryReduction(group, conformance);
  ExpectReducescatters(group, conformance);
  ExpectAllgathers(group, conformance);
  ExpectBroadcasts(group, conformance);
  ExpectAlltoalls(group, conformance);
  ExpectMixedOps(group, conformance, 200);
}

}  // namespace hora
