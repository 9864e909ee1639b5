// What the ranks of a process set are called: each by its number in the whole job.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "hora/base/rank_set.h"

namespace hora {

// Engines number the ranks of a process set 0, 1, …; people know them by their global rank, so
// every text passes through here. Without a list (the global set) both are the same. A value type.
class RankNames {
 public:
  RankNames() = default;
  explicit RankNames(std::vector<int> global_ranks) : global_(std::move(global_ranks)) {}

  int Of(int rank) const {
    return global_.empty() ? rank : global_[static_cast<std::size_t>(rank)];
  }
  RankSet Of(const RankSet& ranks) const;
  RankNames Part(const std::vector<int>& places) const;  // of the ranks there, in that order
  // The place of a global rank; -1 when it is not in the set. In the global set every number is its
  // own place, also those that no rank has.
  int PlaceOf(int global_rank) const;
  bool is_global() const { return global_.empty(); }
  const std::vector<int>& global_ranks() const { return global_; }

 private:
  std::vector<int> global_;
};

}  // namespace hora
