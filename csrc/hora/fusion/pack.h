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

// `buffers` are in the order of batch.members.
ByteStream InputStream(std::span<const MemberBuffers> buffers);

// allgather: one stream per source rank, over the rows that it contributes to each member's output;
// otherwise one stream over the outputs.
std::vector<ByteStream> OutputStreams(const Batch& batch, std::span<const Response> responses,
                                      std::span<const MemberBuffers> buffers, int size);

}  // namespace hora
