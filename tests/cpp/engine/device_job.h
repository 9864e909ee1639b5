// Jobs whose ranks have GPUs: simulated ones, and a fake of NCCL.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fake_nccl/fake_nccl.h"
#include "simulated_device/simulated_device.h"
#include "support/rank_group.h"

namespace hora::testing {

inline FakeNcclControl& FakeNccl() {
  static FakeNcclControl& control = []() -> FakeNcclControl& {
    void* const library = dlopen(HORA_FAKE_NCCL, RTLD_NOW);
    return *reinterpret_cast<FakeNcclControlOf>(dlsym(library, "fake_nccl_control"))();
  }();
  return control;
}

// What a job's ranks have. Once it has ended nothing of it is left, on the devices and in NCCL.
class DeviceJob {
 public:
  // `backend`: HORA_GPU_BACKEND. With fewer devices than ranks, ranks share them.
  DeviceJob(int size, int devices, const std::string& backend)
      : device_(std::make_shared<SimulatedDevice>(devices)) {
    options_.size = size;
    options_.device = device_;
    options_.config.device = {.backend = backend, .nccl_library = HORA_FAKE_NCCL};
  }

  RankGroupOptions& options() { return options_; }
  Config& config() { return options_.config; }
  SimulatedDevice& device() { return *device_; }
  // Something is to be left to the devices.
  void set_leaks() { leaks_ = true; }

  void Run(const std::function<void(RankContext&)>& body) {
    RunRanks(options_, [&](RankContext& self) {
      // On several hosts too, each has its own as far as they go.
      static_cast<void>(
          self.engine().device().Choose(self.global_rank() % device_->device_count()));
      body(self);
    });
    if (leaks_) return;
    EXPECT_EQ(device_->allocated_device(), 0u);
    EXPECT_EQ(device_->allocated_pinned(), 0u);
    EXPECT_EQ(FakeNccl().communicators.load(), 0);
    EXPECT_EQ(FakeNccl().registrations.load(), 0);
  }

 private:
  std::shared_ptr<SimulatedDevice> device_;
  RankGroupOptions options_;
  bool leaks_ = false;
};

// The stream of a rank's program, which the test can hold: what is submitted after `mark` waits.
class ProgramStream {
 public:
  ProgramStream(SimulatedDevice& device, RankContext& self)
      : device_(device),
        stream_(OwnedStream::Create(self.engine().device().runtime().value(),
                                    self.engine().device().Chosen().value(), false)
                    .value()) {}
  ~ProgramStream() { device_.Release(stream_.get()); }

  void Hold() { device_.Hold(stream_.get()); }
  void Release() { device_.Release(stream_.get()); }
  DeviceStream get() const { return stream_.get(); }
  EventPool::Lease Mark(RankContext& self) {
    return self.engine().device().Mark(stream_.get()).value();
  }

 private:
  SimulatedDevice& device_;
  OwnedStream stream_;
};

}  // namespace hora::testing
