// An alltoall's splits: not negotiated, because they change with every call, so exchanged before
// the data.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hora/base/result.h"
#include "hora/collectives/collective_backend.h"

namespace hora {

// Who sends how many rows to whom. A value type.
class SplitTable {
 public:
  explicit SplitTable(int size);

  std::int64_t rows(int source, int destination) const {
    return rows_[static_cast<std::size_t>(source) * size_ + static_cast<std::size_t>(destination)];
  }
  // What `rank` receives from each rank.
  std::vector<std::int64_t> ReceivedBy(int rank) const;
  // From each rank to each other, as CollectiveCall::bytes_per_rank; kMismatch when that is more
  // than memory can hold.
  Result<std::vector<std::uint64_t>> Bytes(std::uint64_t bytes_per_row) const;

  std::span<std::int64_t> RowsFrom(int source) {
    return std::span(rows_).subspan(static_cast<std::size_t>(source) * size_, size_);
  }

 private:
  std::size_t size_;
  std::vector<std::int64_t> rows_;  // source · size + destination
};

// Every rank of the set calls it with its own splits, one for each rank, by an allgather of int64
// with `params`. Blocks and fails as CollectiveBackend::Execute does.
Result<SplitTable> ExchangeSplits(CollectiveBackend& backend, const OpParams& params,
                                  std::span<std::int64_t> splits);

}  // namespace hora
