// Collectives of device tensors through the memory of the host.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "hora/collectives/collective_backend.h"
#include "hora/cuda/device_memory.h"

namespace hora {

struct StagingOptions {
  std::size_t piece_bytes = 4u << 20;  // of an allreduce or broadcast that goes in pieces
  Duration patience{};                 // for the device; kStalled names it
};

// For GPUs where NCCL is missing or cannot go, as where ranks share one. Owns a backend of host
// memory, which does the work, and takes pinned memory from a pool. What is large and element-wise
// goes in pieces, so that copying piece i + 1 down, working on piece i, and copying piece i − 1 up
// happen at the same time. Copies are put on streams of its own, after what is on call.stream, and
// call.stream continues after them; Execute blocks until the last piece is on its way up.
//
// Supports what the inner backend does for host tensors.
class StagedBackend final : public CollectiveBackend {
 public:
  StagedBackend(std::shared_ptr<DeviceRuntime> runtime, int device,
                std::shared_ptr<PinnedPool> pinned, std::unique_ptr<CollectiveBackend> inner,
                StagingOptions options);
  ~StagedBackend() override;

  std::string_view name() const override { return "staged"; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace hora
