#include "hora/tensor/rank_names.h"

#include <algorithm>

namespace hora {

RankSet RankNames::Of(const RankSet& ranks) const {
  if (is_global()) return ranks;
  RankSet named;
  for (const int rank : ranks.ranks()) named.Add(Of(rank));
  return named;
}

RankNames RankNames::Part(const std::vector<int>& places) const {
  std::vector<int> named;
  for (const int place : places) named.push_back(Of(place));
  return RankNames(std::move(named));
}

int RankNames::PlaceOf(int global_rank) const {
  if (is_global()) return global_rank;
  const auto found = std::find(global_.begin(), global_.end(), global_rank);
  return found == global_.end() ? -1 : static_cast<int>(found - global_.begin());
}

}  // namespace hora
