#include "hora/base/clock.h"

namespace hora {

const SteadyClock& SteadyClock::Instance() {
  static const SteadyClock clock;
  return clock;
}

}  // namespace hora
