#include "hora/bindings/roots.h"

#include "hora/base/format.h"

namespace hora::bindings {

Result<int> PlaceOfRoot(int root_rank, const ProcessSet& set) {
  const int place = set.names().PlaceOf(root_rank);
  if (place >= 0 || set.names().is_global()) return place;
  return Fail(Error(StatusCode::kInvalidArgument,
                    "root_rank {} is not in process set {} (ranks {})", root_rank, set.id(),
                    fmt::join(set.names().global_ranks(), ", ")));
}

}  // namespace hora::bindings
