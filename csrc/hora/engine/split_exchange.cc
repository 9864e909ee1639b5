#include "hora/engine/split_exchange.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "hora/base/format.h"

namespace hora {

SplitTable::SplitTable(int size) : size_(static_cast<std::size_t>(size)), rows_(size_ * size_) {}

std::vector<std::int64_t> SplitTable::ReceivedBy(int rank) const {
  std::vector<std::int64_t> received(size_);
  for (std::size_t source = 0; source < size_; ++source) {
    received[source] = rows(static_cast<int>(source), rank);
  }
  return received;
}

Result<std::vector<std::uint64_t>> SplitTable::Bytes(std::uint64_t bytes_per_row) const {
  // The sum over all ranks fits as well.
  const auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) /
                    (size_ * size_ * std::max<std::uint64_t>(bytes_per_row, 1));
  std::vector<std::uint64_t> bytes(rows_.size());
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const auto count = static_cast<std::uint64_t>(rows_[i]);
    if (rows_[i] < 0 || count > most) {
      return Fail(Error(StatusCode::kMismatch,
                        "an alltoall of {} rows of {} bytes from one rank to another is too large",
                        rows_[i], bytes_per_row));
    }
    bytes[i] = count * bytes_per_row;
  }
  return bytes;
}

Result<SplitTable> ExchangeSplits(CollectiveBackend& backend, const OpParams& params,
                                  std::span<std::int64_t> splits) {
  const int size = static_cast<int>(splits.size());
  SplitTable table(size);
  CollectiveCall call{.params = params, .size = size};
  call.bytes_per_rank.assign(splits.size(), splits.size_bytes());
  call.inputs.emplace_back(std::vector{std::as_writable_bytes(splits)});
  for (int source = 0; source < size; ++source) {
    call.outputs.emplace_back(std::vector{std::as_writable_bytes(table.RowsFrom(source))});
  }
  if (Status status = backend.Execute(call); !status.ok()) return Fail(std::move(status));
  return table;
}

}  // namespace hora
