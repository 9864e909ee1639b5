#pragma once

#include <cstdint>
#include <string_view>

namespace hora {

// Values travel on the wire: append, never renumber.
enum class OpKind : std::uint8_t {
  kAllreduce = 0,
  kAllgather,
  kBroadcast,
  kBarrier,
  kAlltoall,
  kReducescatter,
  kJoin,
};
inline constexpr int kOpKindCount = 7;

std::string_view ToString(OpKind kind);  // "allreduce", …

}  // namespace hora
