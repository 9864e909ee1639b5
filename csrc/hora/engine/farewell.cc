#include "hora/engine/farewell.h"

#include <chrono>

#include "hora/base/clock.h"
#include "hora/base/format.h"
#include "hora/base/logging.h"

namespace hora {
namespace {

constexpr Duration kLongest = std::chrono::minutes(1);

}  // namespace

bool ComesToAnEnd(const std::function<Status()>& end, int rank, std::string_view what) {
  const TimePoint deadline = SteadyClock::Instance().Now() + kLongest;
  while (true) {
    const Status status = end();
    if (status.ok()) return true;
    if (SteadyClock::Instance().Now() < deadline) continue;
    Log(LogLevel::kError, rank,
        fmt::format("{} stays, with its memory and what it has of the GPU, until the process ends: "
                    "{}",
                    what, status.message()));
    return false;
  }
}

}  // namespace hora
