// What a call does to this rank's own bytes.
#pragma once

#include "hora/collectives/collective_backend.h"
#include "hora/kernels/reduce.h"

namespace hora {

// What a reduction that `call` asks for does to each element.
ReduceSpec SpecOf(const CollectiveCall& call);
// The reduction of one rank's operand: scales, or a copy.
void ReduceAlone(ByteStream& input, ByteStream& output, const ReduceSpec& spec);
// The whole call in a group of one.
void RunAlone(CollectiveCall& call);

}  // namespace hora
