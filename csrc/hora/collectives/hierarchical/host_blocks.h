// The blocks of the ranks of a host, one after the other.
#pragma once

#include <cstdint>
#include <vector>

#include "hora/collectives/hierarchical/lane_shares.h"
#include "hora/tensor/host_layout.h"

namespace hora {

// Where a block of each rank of `host` begins and ends when they are put together. A value type.
class HostBlocks {
 public:
  HostBlocks(const HostLayout& layout, int host, const std::vector<std::uint64_t>& bytes_by_rank)
      : first_(layout.first_of(host)), ends_(static_cast<std::size_t>(layout.size_of(host))) {
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < ends_.size(); ++i) {
      end += bytes_by_rank[static_cast<std::size_t>(first_) + i];
      ends_[i] = end;
    }
  }

  std::uint64_t bytes() const { return ends_.back(); }
  ByteRange of(int local) const {
    const auto i = static_cast<std::size_t>(local);
    return {i == 0 ? 0 : ends_[i - 1], ends_[i]};
  }

  // Of the streams of all ranks: the part of this host's.
  void Add(std::vector<ByteStream>& streams, ByteRange part, StreamOfParts& to) const {
    for (int i = 0; i < static_cast<int>(ends_.size()); ++i) {
      const ByteRange shared = Overlap(part, of(i));
      if (shared.bytes() == 0) continue;
      to.Add(streams[static_cast<std::size_t>(first_ + i)],
             {shared.begin - of(i).begin, shared.end - of(i).begin});
    }
  }
  ByteStream StreamOf(std::vector<ByteStream>& streams, ByteRange part) const {
    StreamOfParts parts;
    Add(streams, part, parts);
    return parts.Take();
  }

 private:
  int first_;
  std::vector<std::uint64_t> ends_;
};

}  // namespace hora
