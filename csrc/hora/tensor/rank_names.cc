#include "hora/tensor/rank_names.h"

namespace hora {

RankSet RankNames::Of(const RankSet& ranks) const {
  if (is_global()) return ranks;
  RankSet named;
  for (const int rank : ranks.ranks()) named.Add(Of(rank));
  return named;
}

}  // namespace hora
