// Adasum: gradients added as far as they point in different directions, averaged as far as they
// agree. Saeed Maleki et al., "Scaling Distributed Training with Adaptive Summation",
// arXiv:2006.02924.
#pragma once

#include "hora/base/status.h"
#include "hora/collectives/collective_backend.h"

namespace hora {

// Two gradients a and b of one tensor combine to (1 - a·b / 2|a|²) a + (1 - a·b / 2|b|²) b; a term
// whose norm is zero counts in full. More than two combine in a binary tree: neighbours in the
// order of the ranks, level by level, an odd one out passes through. Any number of ranks.
//
// Runs an allreduce whose op is kAdasum by other collectives of `backend`: an alltoall brings slice
// r of everybody's batch to rank r, each of the ceil(log2 size) levels exchanges dot products by an
// allgather of 24 bytes per pair and tensor, and an allgather hands out the results.
//
// `call` is what Execute would take, and all ranks call alike; `rank` is this rank's place among
// them. Arithmetic is fp32 (fp64 for fp64), dot products are fp64. Partial dot products are added
// in the order of the ranks, and each element is computed once: all ranks get equal bits, the same
// in every run. Absent ranks stand outside of the tree; a rank that brings zeros changes nothing
// either. The divisor is ignored.
//
// Blocks as Execute does, and fails as it does. Allocates the batch once, in the type of the
// arithmetic. Only fp16, bf16, fp32 and fp64 (InvariantError for others).
Status RunAdasum(CollectiveBackend& backend, int rank, CollectiveCall& call);

}  // namespace hora
