// Symmetric memory for one process set, made together with the set's other ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>

#include "hora/base/result.h"
#include "hora/engine/process_set.h"
#include "hora/shm/board.h"
#include "hora/shm/symmetric_memory.h"

namespace hora {

// Shares the set and the host's board. Any thread; calls of one rank take turns.
class SymmetricAllocator {
 public:
  // `host`: the board whose descriptor has the memory. `patience`: for the other ranks.
  SymmetricAllocator(std::shared_ptr<Board> host, std::shared_ptr<ProcessSet> set,
                     Duration patience)
      : host_(std::move(host)), set_(std::move(set)), patience_(patience) {}

  // Collective over the set: every rank calls it alike, in the same order among such calls. `what`
  // describes the wish to people. Null when there is nothing to share: no bytes, or one rank.
  // Blocks until every rank may use it. A failure is the same on every rank and leaves things as
  // they were: kMismatch when wishes differ, naming each; kResource when memory is short.
  Result<std::shared_ptr<SymmetricMemory>> Allocate(std::size_t bytes, std::string_view what);

 private:
  Status CheckWishes(const std::string& name, std::size_t bytes, std::string_view what);
  Status Begin();

  const std::shared_ptr<Board> host_;
  const std::shared_ptr<ProcessSet> set_;
  const Duration patience_;
  std::mutex mutex_;                     // held by an allocation
  std::uint64_t count_ = 0;              // mutex_; of allocations, equal on all ranks
  std::shared_ptr<SymmetricHeap> heap_;  // mutex_; from the first allocation on
  bool announced_ = false;               // mutex_; the set's operations look for it
};

}  // namespace hora
