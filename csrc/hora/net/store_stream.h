// Store messages over a channel: each after its length.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "hora/base/result.h"
#include "hora/net/channel.h"
#include "hora/wire/store_message.h"

namespace hora {

// A message as it travels. Immutable: one may go to many.
using StoreFrame = std::shared_ptr<const std::vector<std::byte>>;
Result<StoreFrame> MakeStoreFrame(const StoreMessage& message);

// Owns the channel. One thread, nothing blocks. Errors are final: kPeerFailed when the other end
// has gone, kInternal when it sends something else than messages of at most `most_bytes`.
class StoreStream {
 public:
  StoreStream(Channel channel, std::size_t most_bytes);

  int fd() const { return channel_.fd(); }

  // One frame at a time, as far as the socket takes it at once; the rest by Flush.
  Status Send(StoreFrame frame);
  Result<bool> Flush();  // true when nothing is left
  bool is_sending() const { return sending_ != nullptr; }

  // The next message when it is complete; nullopt: not yet, wait until fd is readable.
  Result<std::optional<StoreMessage>> Receive();

 private:
  Channel channel_;
  const std::size_t most_bytes_;
  StoreFrame sending_;
  std::size_t sent_ = 0;
  std::array<std::byte, 4> length_{};  // of the message, little-endian
  std::vector<std::byte> message_;
  std::size_t received_ = 0;  // of both
};

}  // namespace hora
