// How long the end of an engine, or of one of its sets, is waited for.
#pragma once

#include <functional>
#include <string_view>

#include "hora/base/status.h"

namespace hora {

// Calls `end`, which takes some seconds where it fails, until it is OK: true. False, and the log
// says so: not within a minute, so whoever owns it is to leave it, `what` it is, to the thread that
// is stuck in it.
bool ComesToAnEnd(const std::function<Status()>& end, int rank, std::string_view what);

}  // namespace hora
