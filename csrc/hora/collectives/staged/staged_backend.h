// Collectives of device tensors through the memory of the host.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/interruption.h"
#include "hora/cuda/device_memory.h"
#include "hora/tensor/rank_names.h"

namespace hora {

struct StagingOptions {
  int rank = 0;                                   // among those of the inner backend
  RankNames names;                                // for errors
  std::size_t piece_bytes = 4u << 20;             // at most; equal on all ranks
  Duration patience = std::chrono::seconds(300);  // for one piece to be copied
  std::function<Status()> lost;                   // not OK: why the group has ended; may be empty
  Interruption interruption;                      // may be empty
};

// For GPUs where NCCL is missing or cannot go, as where ranks share one. A backend of host memory
// does the work (scales and averages too): it belongs to somebody else, who tunes it, calls it
// between operations if he likes, and keeps it for longer. Pinned memory comes from a pool.
// Allreduce and broadcast go in pieces, so that copying piece i + 1 down, working on piece i, and
// copying piece i - 1 up happen at the same time; where they are cut depends on agreed sizes only,
// since every piece is a call of the inner backend. The others go as a whole.
//
// Supports what the inner backend does for host tensors, and Adasum.
//
// One thread at a time. Copies are put on two streams of its own, after what is on call.stream,
// which continues after the last copy up. Execute blocks until that copy is on its way; it waits
// for the device where this rank's operand must come down, and where the device is still busy with
// memory of the operation before the last one. All waits look at `lost` every millisecond, give
// way, and end with kStalled. kInternal: the device is lost. Every failure is final.
class StagedBackend final : public CollectiveBackend {
 public:
  StagedBackend(std::shared_ptr<DeviceRuntime> runtime, int device,
                std::shared_ptr<PinnedPool> pinned, CollectiveBackend& inner,
                StagingOptions options);
  // Waits for the device, within its patience. One that is still busy then keeps the pinned memory.
  ~StagedBackend() override;

  std::string_view name() const override { return "staged"; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;  // does nothing: see above
  Status Execute(CollectiveCall& call) override;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace hora
