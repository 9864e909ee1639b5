// A batch's tensors as the streams that a collective reads and writes.
#pragma once

#include <span>
#include <vector>

#include "hora/fusion/fusion_plan.h"
#include "hora/tensor/byte_stream.h"
#include "hora/tensor/tensor_view.h"

namespace hora {

// One member's memory on this rank. `output` may be the input's memory.
struct MemberBuffers {
  TensorView input;
  TensorView output;
};

// `buffers` are in the order of batch.members. reducescatter: one stream per destination rank, over
// the rows that it receives of each member; otherwise one over the inputs. Not for alltoall.
std::vector<ByteStream> InputStreams(const Batch& batch, std::span<const Agreed> agreed,
                                     std::span<const MemberBuffers> buffers, int size);

// allgather: one stream per source rank, over the rows that it contributes to each member's output;
// otherwise one stream over the outputs. Not for alltoall.
std::vector<ByteStream> OutputStreams(const Batch& batch, std::span<const Agreed> agreed,
                                      std::span<const MemberBuffers> buffers, int size);

// alltoall of one tensor: consecutive pieces of `view`, piece i of rows[i] rows.
std::vector<ByteStream> SplitByRows(const TensorView& view, std::span<const std::int64_t> rows);

}  // namespace hora
