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

// The memory that batches pass through, known to NCCL where it can. One thread at a time; the
// communicator, which may be null in a group of one, lives as long.
class NcclFusionMemory {
 public:
  NcclFusionMemory(std::shared_ptr<DeviceRuntime> runtime, int device,
                   NcclCommunicator* communicator)
      : buffer_(std::move(runtime), device), communicator_(communicator) {}

  Result<std::byte*> Reserve(std::size_t bytes);

 private:
  DeviceBuffer buffer_;
  NcclCommunicator* communicator_;
  const std::byte* known_ = nullptr;
  std::vector<std::shared_ptr<void>> registrations_;  // streams may still use outgrown memory
};

// One call, which has been checked. Everything is put on call.stream. Which functions of NCCL are
// called follows from what the ranks have agreed on alone; whether a stream of bytes goes where it
// lies or through the fusion memory is each rank's own business.
class NcclMoves {
 public:
  NcclMoves(DeviceRuntime& runtime, NcclCommunicator* communicator, NcclFusionMemory& memory,
            CollectiveCall& call)
      : runtime_(runtime), communicator_(communicator), memory_(memory), call_(call) {}

  Status Alone();  // in a group of one
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
