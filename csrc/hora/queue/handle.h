// The promise that a submitted operation will complete, exactly once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/status.h"
#include "hora/tensor/result_memory.h"

namespace hora {

// The bytes of an allgather or alltoall, in rank order, allocated when their number was known.
class Gathered {
 public:
  // 64-byte aligned; large ones come from `memory` and go back to it.
  Gathered(std::vector<std::int64_t> rows_by_rank, std::size_t bytes,
           const std::shared_ptr<ResultMemory>& memory)
      : rows_by_rank_(std::move(rows_by_rank)),
        size_(bytes),
        data_(ResultMemory::Allocate(memory, bytes)) {}

  const std::vector<std::int64_t>& rows_by_rank() const { return rows_by_rank_; }
  std::span<std::byte> bytes() const { return {data_.get(), size_}; }

 private:
  std::vector<std::int64_t> rows_by_rank_;
  std::size_t size_;
  ResultMemory::Piece data_;
};

// Any thread may look; the engine completes. The results are only valid once done().
class Handle {
 public:
  explicit Handle(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  bool done() const { return done_.load(); }
  const Status& status() const { return status_; }
  // allgather, alltoall: one per tensor, in order; else empty.
  const std::vector<std::shared_ptr<Gathered>>& gathered() const { return gathered_; }
  int last_joined() const { return last_joined_; }  // join: the global rank that joined last

  // Whether it is expected to take the bulk lane: a hint for who waits. Set before it is submitted.
  bool is_bulk() const { return is_bulk_; }
  void set_bulk(bool is_bulk) { is_bulk_ = is_bulk; }

  // A second completion is a broken invariant.
  void Complete(Status status, std::vector<std::shared_ptr<Gathered>> gathered = {},
                int last_joined = -1);

 private:
  const std::string name_;
  Status status_;
  std::vector<std::shared_ptr<Gathered>> gathered_;
  int last_joined_ = -1;
  bool is_bulk_ = false;
  std::atomic<bool> done_{false};
};

}  // namespace hora
