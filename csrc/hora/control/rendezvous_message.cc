#include "hora/control/rendezvous_message.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>

#include "hora/base/format.h"

namespace hora {

Notice Notice::Refusal(const Status& cause) {
  Notice notice{.kind = NoticeKind::kRefusal, .code = static_cast<std::uint32_t>(cause.code())};
  const std::size_t length = std::min(cause.message().size(), notice.text.size() - 1);
  std::copy_n(cause.message().begin(), length, notice.text.begin());
  return notice;
}

Status Notice::cause() const {
  const bool known = code != 0 && code <= static_cast<std::uint32_t>(StatusCode::kInternal);
  return Status(known ? static_cast<StatusCode>(code) : StatusCode::kInternal,
                std::string(text.begin(), std::find(text.begin(), text.end(), '\0')));
}

bool SameKey(std::span<const std::byte, 32> a, std::span<const std::byte, 32> b) {
  volatile unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = difference | std::to_integer<unsigned>(a[i] ^ b[i]);
  }
  return difference == 0;
}

Status SendMessage(int fd, std::span<const std::byte> message, int passed_fd) {
  iovec piece{const_cast<std::byte*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (passed_fd >= 0) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* const passing = CMSG_FIRSTHDR(&header);
    passing->cmsg_level = SOL_SOCKET;
    passing->cmsg_type = SCM_RIGHTS;
    passing->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(passing), &passed_fd, sizeof(int));
  }
  ssize_t sent = -1;
  do {
    sent = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent == static_cast<ssize_t>(message.size())) return Status::Ok();
  return Error(StatusCode::kPeerFailed, "send: {}", sent < 0 ? std::strerror(errno) : "cut short");
}

Progress MessageReader::Read(int fd, std::span<std::byte> message) {
  while (received_ < message.size()) {
    iovec piece{message.data() + received_, message.size() - received_};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return Progress::kIncomplete;
    if (got <= 0) return Progress::kClosed;
    // There is room for one descriptor; the kernel closes what goes beyond it.
    if ((header.msg_flags & MSG_CTRUNC) != 0) descriptor_lost_ = true;
    const cmsghdr* const passing = CMSG_FIRSTHDR(&header);
    if (passing != nullptr && passing->cmsg_level == SOL_SOCKET &&
        passing->cmsg_type == SCM_RIGHTS && passing->cmsg_len == CMSG_LEN(sizeof(int))) {
      int passed = -1;
      std::memcpy(&passed, CMSG_DATA(passing), sizeof(int));
      passed_fd_ = UniqueFd(passed);
    }
    received_ += static_cast<std::size_t>(got);
  }
  return Progress::kComplete;
}

PeerIdentity IdentityOf(int fd) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return {};
  return {.pid = credentials.pid, .same_user = credentials.uid == geteuid()};
}

int MillisecondsUntil(TimePoint deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::Instance().Now());
  return static_cast<int>(
      std::clamp<std::int64_t>(left.count(), 0, std::numeric_limits<int>::max()));
}

bool PollUntil(int fd, short events, TimePoint deadline) {
  for (;;) {
    pollfd waiting{fd, events, 0};
    const int left_ms = MillisecondsUntil(deadline);
    if (poll(&waiting, 1, left_ms) > 0) return true;
    if (left_ms == 0) return false;
  }
}

bool HasHungUp(int fd) {
  pollfd asked{fd, POLLRDHUP, 0};
  return poll(&asked, 1, 0) > 0 && (asked.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace hora
