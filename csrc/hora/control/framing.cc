#include "hora/control/framing.h"

#include "hora/base/format.h"

namespace hora {

Status TooLarge(std::span<const std::byte> frame, int neighbour) {
  return Error(StatusCode::kResource,
               "a control message of {} bytes to rank {} is too large; at most {} are allowed",
               frame.size(), neighbour, kMaxFrameBytes);
}

void UnsentBytes::Keep(std::span<const std::byte> bytes) {
  // Moving the rest to the front costs no more than what has been sent since the last time.
  if (head_ > bytes_.size() / 2) {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void UnsentBytes::Drop(std::size_t sent) {
  head_ += sent;
  if (!empty()) return;
  bytes_.clear();
  head_ = 0;
}

Status FrameReader::TooLong(std::uint32_t length) const {
  return Error(StatusCode::kInternal,
               "rank {} sent a control message of {} bytes; at most {} are allowed", neighbour_,
               length, kMaxFrameBytes);
}

}  // namespace hora
