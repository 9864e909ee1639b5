// Invariants. A broken one throws InvariantError, which the engine catches at the top of its
// progress function and turns into a failed engine: every open handle gets the error, the process
// lives on.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string_view>

namespace hora {

class InvariantError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void InvariantFailed(std::string_view what, std::source_location where);

inline void Check(bool holds, std::string_view what,
                  std::source_location where = std::source_location::current()) {
  if (!holds) [[unlikely]]
    InvariantFailed(what, where);
}

}  // namespace hora
