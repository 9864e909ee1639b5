#include "hora/control/local_group.h"

#include <memory>

#include "hora/base/check.h"

namespace hora {

std::vector<HostGroup> MakeLocalGroup(int size, const Tunables& tunables) {
  auto board =
      Board::Create({.size = size, .window_bytes = tunables.window_bytes, .generation = 1});
  Check(board.has_value(), board ? "" : board.error().message());
  return std::vector<HostGroup>(static_cast<std::size_t>(size), {*board, tunables, {}});
}

}  // namespace hora
