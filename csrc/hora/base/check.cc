#include "hora/base/check.h"

#include "hora/base/format.h"

namespace hora {

void InvariantFailed(std::string_view what, std::source_location where) {
  throw InvariantError(
      fmt::format("broken invariant: {} ({}:{})", what, where.file_name(), where.line()));
}

}  // namespace hora
