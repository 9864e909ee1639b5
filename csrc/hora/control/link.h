// One edge of the control tree: frames to and from one neighbour.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "hora/base/status.h"

namespace hora {

// In order, exactly once, non-blocking. Used by the progress context only, one thread at a time.
class Link {
 public:
  virtual ~Link() = default;

  // Takes a copy. What does not fit into the transport now is kept and moved by later calls of
  // Flush. `urgent` wakes the neighbour even when it waits for nothing.
  virtual Status Send(std::span<const std::byte> frame, bool urgent) = 0;

  // Moves kept bytes; true when nothing is left.
  virtual bool Flush() = 0;

  // The next complete frame, or false. Replaces the contents of `frame`.
  virtual bool Receive(std::vector<std::byte>& frame) = 0;

  // True when Receive may give something or Flush may move something. Cheap: polled by waiters, on
  // any thread, also while another one uses the link.
  virtual bool NeedsAttention() const = 0;

  // Whoever is about to sleep wants to be woken, once, when the neighbour sends something. Links
  // whose neighbour rings the doorbell by itself have nothing to do.
  virtual void Arm() {}

  // Not OK: the neighbour broke the framing; nothing more will be received.
  virtual const Status& status() const = 0;
};

}  // namespace hora
