// What a long collective gives way to.
#pragma once

#include <functional>

#include "hora/base/status.h"

namespace hora {

// Asked between the steps of a collective, and while it waits for its peers. Both are called by the
// thread that runs the collective; neither may start a collective on the same lane.
struct Interruption {
  std::function<bool()> wanted;      // cheap: a few loads
  std::function<Status()> give_way;  // not OK ends the collective
};

}  // namespace hora
