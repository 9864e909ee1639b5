// The operations on device memory, put on a stream.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/nccl/nccl_communicator.h"
#include "hora/collectives/nccl/nccl_element.h"
#include "hora/cuda/device_memory.h"

namespace hora {

// The memory that operations pass through; one thread at a time. There are two pieces. What all
// ranks pass through alike is NCCL's own where it has some, and registered with it. What one rank
// alone may need, because of how its tensors lie, is neither: of registered memory NCCL wants that
// all ranks of an operation use it or none, and may wait for ever otherwise. So a rank that gets
// none, or cannot register it, must not go on without: it fails. The communicator ends before this
// does; its library stays open.
class NcclFusionMemory {
 public:
  NcclFusionMemory(const std::shared_ptr<DeviceRuntime>& runtime, int device,
                   NcclCommunicator& communicator, const MakeRoom& make_room);

  // `alike`: all ranks ask for some in this very call. The device is current to the caller.
  // Beside all captures. kResource names the rank, and what DeviceBuffer or NCCL says; the group
  // has to end then.
  Result<std::byte*> Reserve(std::size_t bytes, bool alike);
  bool Has(std::size_t bytes, bool alike) const {  // whether Reserve would allocate nothing
    return bytes <= (alike ? alike_ : own_).whole().size();
  }

 private:
  const std::shared_ptr<DeviceRuntime> runtime_;
  NcclCommunicator& communicator_;
  DeviceBuffer alike_;
  DeviceBuffer own_;
  std::vector<std::shared_ptr<void>> registrations_;  // streams may still use outgrown memory
};

// One call, which has been checked. Everything is put on call.stream. Which functions of NCCL are
// called follows from what the ranks have agreed on alone, and so does whether it is registered
// memory that they are called with: that of batches of several tensors. A single one goes where it
// lies, or if it cannot, which is each rank's own business, through memory of that rank's own.
class NcclMoves {
 public:
  NcclMoves(DeviceRuntime& runtime, NcclCommunicator* communicator, NcclFusionMemory& memory,
            CollectiveCall& call)
      : runtime_(runtime), communicator_(communicator), memory_(memory), call_(call) {}

  Status Alone();  // in a group of one, without NCCL
  Status Allreduce(const NcclReduction& reduction);
  Status Reducescatter(const NcclReduction& reduction);
  Status Allgather();
  Status Broadcast();
  Status Alltoall();

 private:
  // Where a reduction is scaled: before NCCL, by NCCL, after it.
  struct Scaling {
    ElementCopy before, after;
    bool by_nccl = false;
  };
  Scaling ScalingOf() const;

  // Before anything is put on the stream. kInvalidArgument: the stream is being captured, and there
  // is too little: what is allocated then could be registered only by breaking the capture.
  Result<std::byte*> Memory(std::size_t bytes);
  // Where they lie, as far as NCCL may be called with that; else null.
  std::byte* Lying(ByteStream& stream, std::uint64_t bytes, std::size_t alignment);
  std::byte* Lying(std::vector<ByteStream>& streams, std::size_t alignment);

  Status Copy(ByteStream& from, ByteStream& to, const ElementCopy& element);
  Status Pack(std::vector<ByteStream>& from, std::byte* to, const ElementCopy& element);
  Status Unpack(std::byte* from, std::vector<ByteStream>& to, const ElementCopy& element);
  Status ScaleInPlace(std::byte* data, std::uint64_t bytes, const ElementCopy& element);
  Status Neutral(std::byte* to, std::uint64_t bytes);
  Status CopyPieces(const std::vector<PieceCopy>& pieces, const ElementCopy& element);
  ElementCopy Bytes() const { return {.from = DType::kUInt8, .to = DType::kUInt8}; }

  DeviceRuntime& runtime_;
  NcclCommunicator* communicator_;
  NcclFusionMemory& memory_;
  CollectiveCall& call_;
};

}  // namespace hora
