// The data plane's seam: who moves and reduces the bytes of an agreed batch.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "hora/base/rank_set.h"
#include "hora/base/status.h"
#include "hora/collectives/in_place_plan.h"
#include "hora/cuda/device_runtime.h"
#include "hora/tensor/byte_stream.h"
#include "hora/wire/request.h"
#include "hora/wire/tunables.h"

namespace hora {

// One fused batch. `params` (its shape is ignored) and `bytes_per_rank` are equal on all ranks; the
// streams are this rank's own memory. Sizes are 64-bit everywhere.
struct CollectiveCall {
  OpParams params;
  int size = 1;  // ranks that take part
  // allgather: what each rank contributes. reducescatter: what each rank receives. alltoall: what
  // rank s sends to rank d, at s · size + d. Otherwise one entry.
  std::vector<std::uint64_t> bytes_per_rank;
  // What this rank contributes, used at the root only for a broadcast. reducescatter and alltoall:
  // one stream per destination rank. Otherwise one.
  std::vector<ByteStream> inputs;
  // allgather and alltoall: one stream per source rank. Otherwise one. For allreduce and broadcast
  // an output may be the very memory of the input (in place); nothing else may overlap.
  std::vector<ByteStream> outputs;
  // allreduce: ranks that take part in the work and get the result, but bring no operand. Their
  // inputs mean nothing and may be left out.
  RankSet absent;
  int divisor = 1;  // of an average; allreduce, reducescatter
  // There are several tensors, which may lie together on some ranks. Equal on all ranks.
  bool fused = false;
  // adasum: bytes of each tensor in the batch, in order; dot products never cross a tensor.
  std::vector<std::uint64_t> tensor_bytes;
  // allreduce, without absent ranks: what of this rank's memory could be reduced in place, in which
  // input and output are the same. All ranks have a plan or none has. A backend may leave it be.
  InPlacePlan* in_place = nullptr;
  // Memory of a device: everything happens after what is on this stream, and what follows on it
  // comes after everything.
  DeviceStream stream;
};

// Up to here it costs less that every rank reduces everything than that all meet a second time.
inline constexpr std::size_t kDefaultSmallBytes = 4u << 10;

class CollectiveBackend {
 public:
  virtual ~CollectiveBackend() = default;
  virtual std::string_view name() const = 0;
  virtual bool Supports(const OpParams& params) const = 0;

  // In force from the next call on; equal on all ranks.
  virtual void Retune(const Tuning& tuning) = 0;

  // Every rank calls it with the same batches in the same order. Blocks until this rank's part is
  // done and its memory may be reused; memory of a device: in the order of call.stream. Not OK: the
  // group is lost (the data plane is out of step); the message names the ranks that were waited
  // for. One thread at a time.
  virtual Status Execute(CollectiveCall& call) = 0;

  // Whether Execute may be called while call.stream is captured into a graph, which then does on
  // every replay what it puts there. kInvalidArgument means in such a call that something is not
  // there yet that the same call makes outside of a capture: nothing was done, the group goes on.
  virtual bool CanBeCaptured() const { return false; }
};

}  // namespace hora
