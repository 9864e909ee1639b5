#include "hora/net/socket_io.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "hora/base/format.h"

namespace hora {
namespace {

template <class Call>
Result<std::size_t> Transfer(Call call, std::span<const iovec> pieces) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  ssize_t done = -1;
  do {
    done = call(message);
  } while (done < 0 && errno == EINTR);
  if (done > 0) return static_cast<std::size_t>(done);
  if (done == 0) {
    return Fail(Status(StatusCode::kPeerFailed, "the other end has closed the connection"));
  }
  if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
  return Fail(Error(StatusCode::kPeerFailed, "the connection is broken: {}", std::strerror(errno)));
}

int MillisecondsLeft(TimePoint deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::Instance().Now());
  return static_cast<int>(
      std::clamp<std::int64_t>(left.count(), 0, std::numeric_limits<int>::max()));
}

}  // namespace

Result<std::size_t> SendSome(int fd, std::span<const iovec> pieces) {
  return Transfer(
      [fd](const msghdr& message) { return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT); },
      pieces);
}

Result<std::size_t> ReceiveSome(int fd, std::span<const iovec> pieces) {
  return Transfer([fd](msghdr& message) { return recvmsg(fd, &message, MSG_DONTWAIT); }, pieces);
}

Result<std::size_t> SendSome(int fd, std::span<const std::byte> bytes) {
  const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  return SendSome(fd, std::span(&piece, 1));
}

Result<std::size_t> ReceiveSome(int fd, std::span<std::byte> into) {
  const iovec piece{into.data(), into.size()};
  return ReceiveSome(fd, std::span(&piece, 1));
}

bool AwaitSocket(int fd, short events, TimePoint deadline) {
  for (;;) {
    pollfd waiting{fd, events, 0};
    const int left_ms = MillisecondsLeft(deadline);
    if (poll(&waiting, 1, left_ms) > 0) return true;
    if (left_ms == 0) return false;
  }
}

Status AboutPeer(const std::string& peer, const Status& cause) {
  return Error(cause.code(), "{}: {}", peer, cause.message());
}

}  // namespace hora
