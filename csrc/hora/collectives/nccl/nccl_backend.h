// Collectives of GPUs by NCCL.
#pragma once

#include <memory>
#include <string_view>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/nccl/nccl_communicator.h"
#include "hora/cuda/device_memory.h"

namespace hora {

// Owns a communicator and a fusion buffer on its device. A batch of several tensors, or one that is
// scaled or cast, is packed into the buffer by one kernel, reduced there in place, and unpacked by
// another; a single tensor goes without copies. Everything is put on call.stream, in order, and
// Execute returns when it is there: what the results are is known when the stream is past it.
// Whoever recorded an event there asks `Check` until it is done. A CUDA graph can capture it, once
// the same calls have run: what they need of memory and connections is there then. Graphs go before
// the backend does, and streams are past what they had of it, or it was aborted.
//
// Supports: float16, bfloat16, float32, float64 (scaled where they are added), integers of 8, 32
// and 64 bits without scales and averages (which hora makes of exact sums), bool, complex64/128 for
// sum and average; sums of 8-bit floats where NCCL and the device have them; any dtype where bytes
// only move. Not Adasum. Absent ranks bring the operation's neutral element. NaN in a minimum or
// maximum is what NCCL makes of it.
class NcclBackend final : public CollectiveBackend {
 public:
  NcclBackend(std::shared_ptr<DeviceRuntime> runtime, int device,
              std::unique_ptr<NcclCommunicator> communicator);
  ~NcclBackend() override;

  std::string_view name() const override { return "nccl"; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;

  // Any thread. Check: not OK, the streams were released, the group is lost; Abort: so it is.
  Status Check();
  void Abort(const Status& cause);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace hora
