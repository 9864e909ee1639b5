// Collectives of GPUs by NCCL.
#pragma once

#include <memory>
#include <string_view>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/nccl/nccl_communicator.h"
#include "hora/cuda/device_memory.h"

namespace hora {

struct NcclBackendOptions {
  // A group of one calls NCCL as well, though what it asks for is a copy at most: for diagnosis and
  // tests, since that is all of NCCL that a single GPU can show.
  bool call_alone = false;
  MakeRoom make_room;  // before device memory is said to be missing; may be empty
};

// Owns a communicator and fusion memory on its device. A batch of several tensors is packed into
// that by one kernel, reduced there in place, and unpacked by another; a single tensor goes without
// copies, unless it is scaled or does not lie in one piece. Everything is put on call.stream, in
// order, and Execute returns when it is there: what the results are is known when the stream is
// past it. Whoever recorded an event there asks `Check` until it is done. A CUDA graph can capture
// it, once the same calls have run: what they need of memory and connections is there then. Graphs
// go before the backend does, and streams are past what they had of it, or it was aborted.
//
// Supports: float16, bfloat16, float32, float64 (scaled where they are added), integers of 8, 32
// and 64 bits without scales and averages (which hora makes of exact sums), bool, complex64/128 for
// sum and average; sums of 8-bit floats where NCCL and the device have them; any dtype where bytes
// only move. Not Adasum. Absent ranks bring the operation's neutral element. NaN in a minimum or
// maximum is what NCCL makes of it.
class NcclBackend final : public CollectiveBackend {
 public:
  NcclBackend(std::shared_ptr<DeviceRuntime> runtime, int device,
              std::unique_ptr<NcclCommunicator> communicator, NcclBackendOptions options = {});
  ~NcclBackend() override;

  std::string_view name() const override { return "nccl"; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;
  bool CanBeCaptured() const override { return true; }

  // Any thread. Check: not OK, the streams are released, the group is lost; Abort: so it is.
  Status Check();
  void Abort(const Status& cause);
  // As NcclCommunicator's; false: NCCL may be at it for ever, and the backend must stay as well.
  void BeginEnd();
  void AwaitEnd(TimePoint until);
  bool End(TimePoint deadline);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace hora
