#pragma once

#include <cstdint>
#include <string_view>

namespace hora {

// Values travel on the wire: append, never renumber.
enum class OpKind : std::uint8_t { kAllreduce = 0, kAllgather = 1, kBroadcast = 2, kBarrier = 3 };
inline constexpr int kOpKindCount = 4;

std::string_view ToString(OpKind kind);  // "allreduce", …

}  // namespace hora
