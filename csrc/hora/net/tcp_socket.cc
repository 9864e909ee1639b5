#include "hora/net/tcp_socket.h"

#include <netinet/tcp.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "hora/base/format.h"
#include "hora/net/port_holder.h"
#include "hora/net/socket_io.h"

namespace hora {
namespace {

constexpr int kBacklog = 1024;  // the kernel cuts it to its own limit
constexpr Duration kFirstPause = std::chrono::milliseconds(10);  // between attempts to dial
constexpr Duration kLongestPause = std::chrono::milliseconds(200);

void SetOption(int fd, int level, int option) {
  const int on = 1;
  setsockopt(fd, level, option, &on, sizeof(on));
}

UniqueFd OpenSocket(int family) {
  return UniqueFd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
}

template <class NameOf>
Result<SocketAddress> EndOf(NameOf name_of, int fd) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  if (name_of(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) {
    return Fail(Error(StatusCode::kPeerFailed, "not connected: {}", std::strerror(errno)));
  }
  return SocketAddress::From(reinterpret_cast<const sockaddr*>(&address), bytes);
}

// The kernel connects a socket to itself when it happens to choose the dialled port, on which
// nobody listens, as the local one.
bool IsConnectedToItself(int fd) {
  const Result<SocketAddress> own = EndOf(getsockname, fd);
  const Result<SocketAddress> other = EndOf(getpeername, fd);
  return own && other && *own == *other;
}

// One attempt; errno says why there is no connection, ETIMEDOUT also for the deadline.
UniqueFd TryToConnect(const SocketAddress& to, TimePoint deadline) {
  UniqueFd fd = OpenSocket(to.family());
  if (!fd.valid()) return {};
  SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY);
  int error = connect(fd.get(), to.data(), to.bytes()) == 0 ? 0 : errno;
  if (error == EINPROGRESS || error == EINTR) {
    socklen_t bytes = sizeof(error);
    if (!AwaitSocket(fd.get(), POLLOUT, deadline)) {
      error = ETIMEDOUT;
    } else if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) {
      error = errno;
    }
  }
  if (error == 0 && IsConnectedToItself(fd.get())) error = ECONNREFUSED;
  errno = error;
  return error == 0 ? std::move(fd) : UniqueFd();
}

Status DialFailed(const SocketAddress& to, int error) {
  switch (error) {
    case ECONNREFUSED:
      return Error(StatusCode::kPeerFailed,
                   "{} refuses connections: no process listens there, or a firewall rejects them",
                   to.ToString());
    case ETIMEDOUT:
      return Error(StatusCode::kTimeout,
                   "{} does not answer: the host is down, unreachable, or a firewall drops packets",
                   to.ToString());
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      return Error(StatusCode::kResource, "no socket for a connection to {}: {} (see `ulimit -n`)",
                   to.ToString(), std::strerror(error));
    default:
      return Error(StatusCode::kPeerFailed, "{} cannot be reached: {}", to.ToString(),
                   std::strerror(error));
  }
}

// Between two attempts; nothing would wake this process when the other one begins to listen.
void Pause(Duration duration) {
  timespec left{.tv_sec = duration.count() / 1'000'000'000,
                .tv_nsec = duration.count() % 1'000'000'000};
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
  }
}

}  // namespace

Result<TcpListener> TcpListener::Open(const SocketAddress& address) {
  if (!address.IsSet() || address.IsWildcard()) {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "{} is not the address of one interface; hora listens on no other",
                      address.ToString()));
  }
  const auto failed = [&address](std::string_view what) {
    const int error = errno;
    const std::string holder = error == EADDRINUSE ? "; " + HolderOfPort(address) : std::string();
    return Fail(Error(StatusCode::kResource, "cannot {} {}: {}{}", what, address.ToString(),
                      std::strerror(error), holder));
  };
  UniqueFd fd = OpenSocket(address.family());
  if (!fd.valid()) return failed("open a socket for");
  // A fixed port can be had again while connections of its last owner fade.
  SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR);
  SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY);
  if (bind(fd.get(), address.data(), address.bytes()) != 0) return failed("bind");
  if (listen(fd.get(), kBacklog) != 0) return failed("listen on");
  Result<SocketAddress> bound = EndOf(getsockname, fd.get());
  if (!bound) return Fail(std::move(bound.error()));
  return TcpListener(std::move(fd), *bound);
}

Result<UniqueFd> TcpListener::Accept() {
  for (;;) {
    UniqueFd accepted(accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted.valid()) {
      SetOption(accepted.get(), IPPROTO_TCP, TCP_NODELAY);
      return accepted;
    }
    switch (errno) {
      case EAGAIN:
        return UniqueFd();
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
      case EBADF:
      case EINVAL:
      case ENOTSOCK:
        return Fail(Error(StatusCode::kResource, "cannot accept a connection on {}: {}",
                          address_.ToString(), std::strerror(errno)));
      default:  // that connection is gone already: the next one
        continue;
    }
  }
}

Result<UniqueFd> Dial(const SocketAddress& to, TimePoint deadline, bool patient) {
  if (!to.IsSet() || to.port() == 0) {
    return Fail(Error(StatusCode::kInvalidArgument, "{} is nowhere to connect to", to.ToString()));
  }
  Duration pause = kFirstPause;
  for (;;) {
    UniqueFd fd = TryToConnect(to, deadline);
    if (fd.valid()) return fd;
    const int error = errno;
    const Duration left = deadline - SteadyClock::Instance().Now();
    if (!patient || error != ECONNREFUSED || left <= Duration::zero()) {
      return Fail(DialFailed(to, error));
    }
    Pause(std::min(pause, left));
    pause = std::min(2 * pause, kLongestPause);
  }
}

std::string PeerName(int fd) {
  const Result<SocketAddress> peer = EndOf(getpeername, fd);
  return peer ? peer->ToString() : "?";
}

}  // namespace hora
