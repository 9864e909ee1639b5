// Status to Python exception: the one table.
#pragma once

#include "hora/base/status.h"

namespace hora::bindings {

// Throws the class of hora.errors that belongs to the code. The GIL is held.
[[noreturn]] void Raise(const Status& status);

inline void RaiseIfError(const Status& status) {
  if (!status.ok()) [[unlikely]]
    Raise(status);
}

}  // namespace hora::bindings
