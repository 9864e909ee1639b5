// Result<T>: a T, or the Status that says why there is none.
#pragma once

#include <tl/expected.hpp>

#include <utility>

#include "hora/base/status.h"

namespace hora {

template <class T>
using Result = tl::expected<T, Status>;

// `return Fail(Error(StatusCode::kResource, "…"))` from a function that returns Result<T>.
inline tl::unexpected<Status> Fail(Status status) {
  return tl::unexpected<Status>(std::move(status));
}

}  // namespace hora
