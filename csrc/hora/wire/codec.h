// Control messages to bytes and back (FlatBuffers, schema in control.fbs, verified before reading).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "hora/base/result.h"
#include "hora/wire/control_message.h"

namespace hora {

inline constexpr std::size_t kMaxFrameBytes = 64u << 20;  // a larger frame is refused by both sides
inline constexpr std::size_t kMaxNameBytes = 4096;        // of a tensor

// Replaces the contents of `frame`; reusing one buffer avoids an allocation per message. Not larger
// than kMaxFrameBytes, else kResource.
Status Encode(const ControlMessage& message, std::vector<std::byte>& frame);

// Bounded: allocates no more than a small multiple of frame.size(); any input gives a message or
// kInternal naming the field that is wrong.
Result<ControlMessage> Decode(std::span<const std::byte> frame);

}  // namespace hora
