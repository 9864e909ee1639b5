// What hosts tell each other of their lives, as it travels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "hora/base/status.h"

namespace hora {

// Of one size: nothing to parse but four numbers. Any bytes are a word; Check says whether it means
// something.
struct HeartbeatWord {
  enum class Kind : std::uint8_t { kBeat = 1, kGoodbye = 2, kAbort = 3 };
  static constexpr std::size_t kTextBytes = 512;

  Kind kind = Kind::kBeat;
  StatusCode code = StatusCode::kOk;  // as the rest, of an abort
  std::uint16_t text_bytes = 0;
  std::int32_t origin = -1;
  std::array<char, kTextBytes> text{};

  // The text is cut at what a word, and a board, has room for.
  static HeartbeatWord Abort(int origin, const Status& cause);

  Status Check() const;  // kInternal: "sent …", what no neighbour says
  Status cause() const;  // of an abort that has been checked
};
static_assert(sizeof(HeartbeatWord) == 520);

}  // namespace hora
