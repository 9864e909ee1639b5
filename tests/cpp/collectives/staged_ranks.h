// Ranks as threads of one process that share one simulated device, each with a staged backend.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "collectives/backend_conformance.h"
#include "collectives/tcp_ranks.h"
#include "hora/collectives/staged/staged_backend.h"
#include "simulated_device/simulated_device.h"

namespace hora {

using Backends = std::vector<std::unique_ptr<CollectiveBackend>>;  // by rank

inline Backends ShmBackends(int size, std::size_t window_bytes = 1024,
                            Duration patience = std::chrono::seconds(60)) {
  const auto board =
      std::shared_ptr<Board>(Board::Create({.size = size, .window_bytes = window_bytes}).value());
  Backends backends;
  for (int rank = 0; rank < size; ++rank) {
    const ShmLaneOptions options{
        .rank = rank, .wait = WaitPolicy::For(size, UsableCores()), .patience = patience};
    backends.push_back(std::make_unique<ShmBackend>(board, options));
  }
  return backends;
}

inline Backends TcpBackends(int size) {
  auto channels = ConnectRanks(size, Protection::kChecksum);
  Backends backends;
  for (int rank = 0; rank < size; ++rank) {
    TcpBackendOptions options = TcpRanks::DefaultOptions(rank);
    options.rank = rank;
    options.wait = WaitPolicy::For(size, UsableCores());
    backends.push_back(std::make_unique<TcpBackend>(
        std::move(channels[static_cast<std::size_t>(rank)]), std::move(options)));
  }
  return backends;
}

// Memory of a device for every piece of memory that a call names: the same for the same. What is in
// it is copied there and back on the call's stream, so that anything out of order shows.
class DeviceTwins {
 public:
  DeviceTwins(SimulatedDevice& device, DeviceStream stream) : device_(device), stream_(stream) {}
  ~DeviceTwins() {
    for (const auto& [host, twin] : twins_) device_.FreeDevice(twin.data());
  }
  DeviceTwins(const DeviceTwins&) = delete;
  DeviceTwins& operator=(const DeviceTwins&) = delete;

  void Replace(std::vector<ByteStream>& streams) {
    for (ByteStream& stream : streams) {
      std::vector<std::span<std::byte>> segments;
      stream.ForEachPiece(0, stream.size(),
                          [&](std::span<std::byte> piece) { segments.push_back(TwinOf(piece)); });
      stream = ByteStream(std::move(segments));
    }
  }

  // Everything that is on the stream is done when it returns.
  Status CopyBack() {
    for (const auto& [host, twin] : twins_) {
      Status status = device_.Copy(host.first, twin.data(), twin.size(), stream_);
      if (!status.ok()) return status;
    }
    const Result<DeviceEvent> end = device_.CreateEvent(0);
    if (!end) return end.error();
    Status status = device_.Record(*end, stream_);
    if (status.ok()) {
      status = device_.Await(*end, std::chrono::steady_clock::now() + std::chrono::seconds(60));
    }
    device_.Destroy(*end);
    return status;
  }

 private:
  std::span<std::byte> TwinOf(std::span<std::byte> host) {
    const auto key = std::pair(host.data(), host.size());
    auto found = twins_.find(key);
    if (found == twins_.end()) {
      std::byte* const twin = device_.AllocateDevice(0, host.size()).value();
      EXPECT_TRUE(device_.Copy(twin, host.data(), host.size(), stream_).ok());
      found = twins_.emplace(key, std::span(twin, host.size())).first;
    }
    return found->second;
  }

  SimulatedDevice& device_;
  const DeviceStream stream_;
  std::map<std::pair<std::byte*, std::size_t>, std::span<std::byte>> twins_;
};

// Takes calls of host memory, and does them with tensors of the device.
class DeviceRank final : public CollectiveBackend {
 public:
  DeviceRank(std::shared_ptr<SimulatedDevice> device, std::shared_ptr<PinnedPool> pinned,
             std::unique_ptr<CollectiveBackend> inner, StagingOptions options)
      : device_(std::move(device)),
        stream_(OwnedStream::Create(device_, 0, false).value()),
        inner_(std::move(inner)),
        staged_(device_, 0, std::move(pinned), *inner_, std::move(options)) {}

  std::string_view name() const override { return staged_.name(); }
  bool Supports(const OpParams& params) const override {
    OpParams of_device = params;
    of_device.device = Device{DeviceType::kCuda};
    EXPECT_FALSE(staged_.Supports(params)) << "host tensors are for others";
    return staged_.Supports(of_device);
  }
  void Retune(const Tuning& tuning) override {
    inner_->Retune(tuning);
    staged_.Retune(tuning);
  }

  Status Execute(CollectiveCall& call) override {
    DeviceTwins twins(*device_, stream_.get());
    twins.Replace(call.inputs);
    twins.Replace(call.outputs);
    call.params.device = Device{DeviceType::kCuda};
    call.stream = stream_.get();
    const Status status = staged_.Execute(call);
    const Status copied = twins.CopyBack();
    return status.ok() ? copied : status;
  }

 private:
  const std::shared_ptr<SimulatedDevice> device_;
  OwnedStream stream_;
  const std::unique_ptr<CollectiveBackend> inner_;
  StagedBackend staged_;
};

class StagedRanks final : public BackendGroup {
 public:
  StagedRanks(Backends inner, std::size_t piece_bytes)
      : pinned_(std::make_shared<PinnedPool>(device_, std::size_t{64} << 20)) {
    for (std::size_t rank = 0; rank < inner.size(); ++rank) {
      StagingOptions options;
      options.rank = static_cast<int>(rank);
      options.piece_bytes = piece_bytes;
      options.patience = std::chrono::seconds(60);
      ranks_.push_back(
          std::make_unique<DeviceRank>(device_, pinned_, std::move(inner[rank]), options));
    }
  }

  int size() const override { return static_cast<int>(ranks_.size()); }
  CollectiveBackend& backend(int rank) override { return *ranks_[static_cast<std::size_t>(rank)]; }
  SimulatedDevice& device() { return *device_; }

 private:
  const std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>();
  const std::shared_ptr<PinnedPool> pinned_;
  std::vector<std::unique_ptr<DeviceRank>> ranks_;
};

}  // namespace hora
