// Which tensors of a batch lie in symmetric memory, so that they need not move to be reduced.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hora/collectives/in_place_plan.h"
#include "hora/fusion/pack.h"
#include "hora/shm/symmetric_memory.h"

namespace hora {

// Shares the heap; keeps the plan's memory from call to call. One thread at a time.
class Placement {
 public:
  explicit Placement(std::shared_ptr<const SymmetricHeap> heap) : heap_(std::move(heap)) {}

  // For an allreduce of these members: those that lie in the heap, with input and output the same
  // memory, aligned to their elements. The members must be in use; the plan is valid until the next
  // call. Its digest says which members lie where, in the words of every rank.
  InPlacePlan& Plan(std::span<const MemberBuffers> members);

 private:
  bool Take(std::size_t member, const MemberBuffers& buffers);

  const std::shared_ptr<const SymmetricHeap> heap_;
  InPlacePlan plan_;
  std::vector<std::span<std::byte>> other_inputs_;
  std::vector<std::span<std::byte>> other_outputs_;
};

}  // namespace hora
