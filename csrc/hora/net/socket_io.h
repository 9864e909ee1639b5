// Sending, receiving and waiting on non-blocking stream sockets.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"

namespace hora {

// How many bytes the socket took or gave; 0: not now. kPeerFailed, without the peer's name, for an
// end of the stream and for every error. Never raises SIGPIPE. The pieces hold at least one byte.
Result<std::size_t> SendSome(int fd, std::span<const iovec> pieces);
Result<std::size_t> ReceiveSome(int fd, std::span<const iovec> pieces);
Result<std::size_t> SendSome(int fd, std::span<const std::byte> bytes);
Result<std::size_t> ReceiveSome(int fd, std::span<std::byte> into);

// Waits for poll(2)'s `events`, an error or a hang-up; false at the deadline. Signals do not end
// it.
bool AwaitSocket(int fd, short events, TimePoint deadline);

// "10.0.0.1:4000: the connection was reset": `cause` with the name of the other end before it.
Status AboutPeer(const std::string& peer, const Status& cause);

}  // namespace hora
