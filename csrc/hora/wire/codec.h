// Control messages to bytes and back (FlatBuffers, schema in control.fbs, verified before reading).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "hora/base/result.h"
#include "hora/wire/control_message.h"
#include "hora/wire/limits.h"

namespace hora {

// Replaces the contents of `frame`; reusing one buffer avoids an allocation per message. kResource:
// the message would be larger than kMaxFrameBytes. Any thread; each keeps a builder of its own.
Status Encode(const ControlMessage& message, std::vector<std::byte>& frame);

// Bounded: allocates no more than a small multiple of frame.size(); any input gives a message or
// kInternal naming the field that is wrong. Any thread.
Result<ControlMessage> Decode(std::span<const std::byte> frame);

}  // namespace hora
