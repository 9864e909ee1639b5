// Ranks as threads of one process, each with a communicator of the fake NCCL and a stream of the
// simulated device.
#pragma once

#include <dlfcn.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "collectives/backend_conformance.h"
#include "fake_nccl/fake_nccl.h"
#include "hora/collectives/nccl/nccl_backend.h"
#include "simulated_device/simulated_device.h"
#include "support/memory_store.h"

namespace hora {

inline constexpr Duration kNcclPatience = std::chrono::seconds(60);

inline std::shared_ptr<const NcclLibrary> FakeNccl() {
  return NcclLibrary::Open({HORA_FAKE_NCCL}, "no such library").value();
}

inline FakeNcclControl& FakeNcclControls() {
  static FakeNcclControl& controls = [&]() -> FakeNcclControl& {
    void* const library = dlopen(HORA_FAKE_NCCL, RTLD_NOW);
    return *reinterpret_cast<FakeNcclControlOf>(dlsym(library, "fake_nccl_control"))();
  }();
  return controls;
}

// A NcclBackend for calls on memory of the host, as the conformance tests have them: they become
// calls on the device's, and the stream is waited for.
class NcclOnHost final : public CollectiveBackend {
 public:
  NcclOnHost(std::shared_ptr<SimulatedDevice> device,
             std::unique_ptr<NcclCommunicator> communicator, NcclBackendOptions options = {})
      : device_(std::move(device)),
        stream_(OwnedStream::Create(device_, 0, false).value()),
        done_(device_->CreateEvent(0).value()),
        backend_(std::make_unique<NcclBackend>(device_, 0, std::move(communicator),
                                               std::move(options))) {}
  ~NcclOnHost() override { device_->Destroy(done_); }

  std::string_view name() const override { return backend_->name(); }
  bool Supports(const OpParams& params) const override {
    OpParams on_device = params;
    on_device.device.type = DeviceType::kCuda;
    return backend_->Supports(on_device);
  }
  void Retune(const Tuning& tuning) override { backend_->Retune(tuning); }
  Status Execute(CollectiveCall& call) override {
    call.params.device.type = DeviceType::kCuda;
    call.stream = stream_.get();
    const Status status = backend_->Execute(call);
    return status.ok() ? Await() : status;
  }

  // Until the stream is past what is on it.
  Status Await() {
    Status status = device_->Record(done_, stream_.get());
    return status.ok() ? device_->Await(done_, SteadyClock::Instance().Now() + kNcclPatience)
                       : status;
  }

  NcclBackend& backend() { return *backend_; }
  DeviceStream stream() const { return stream_.get(); }

 private:
  std::shared_ptr<SimulatedDevice> device_;
  OwnedStream stream_;
  DeviceEvent done_;
  std::unique_ptr<NcclBackend> backend_;  // before the stream ends: it releases what hangs there
};

class NcclRanks final : public BackendGroup {
 public:
  explicit NcclRanks(int size, Duration patience = kNcclPatience,
                     const NcclBackendOptions& options = {}) {
    std::vector<std::jthread> threads;
    backends_.resize(static_cast<std::size_t>(size));
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        const ShareId share = OverStore(store_, "nccl/all", rank == 0, {});
        auto made = NcclCommunicator::Create(FakeNccl(), share,
                                             {.rank = rank,
                                              .size = size,
                                              .names = {},
                                              .name = "all",
                                              .patience = patience,
                                              .lost = {}});
        backends_[static_cast<std::size_t>(rank)] =
            std::make_unique<NcclOnHost>(device_, std::move(made).value(), options);
      });
    }
  }
  // At the same time, as processes end: a rank's end may wait for the others'.
  ~NcclRanks() override {
    std::vector<std::jthread> threads;
    for (auto& backend : backends_) threads.emplace_back([&] { backend.reset(); });
  }

  int size() const override { return static_cast<int>(backends_.size()); }
  NcclOnHost& backend(int rank) override { return *backends_[static_cast<std::size_t>(rank)]; }
  SimulatedDevice& device() { return *device_; }

 private:
  const std::shared_ptr<MemoryStore> store_ = std::make_shared<MemoryStore>();
  std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>();
  std::vector<std::unique_ptr<NcclOnHost>> backends_;
};

}  // namespace hora
