// The bytes that a fuzzer chose, and connections to feed them to.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>

#include "hora/base/unique_fd.h"
#include "hora/net/channel.h"
#include "hora/net/handshake.h"
#include "hora/net/socket_io.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace hora::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(std::as_bytes(std::span(data, size))) {}

  // 0 when there is none left.
  std::uint8_t TakeByte() {
    if (rest_.empty()) return 0;
    const auto byte = std::to_integer<std::uint8_t>(rest_.front());
    rest_ = rest_.subspan(1);
    return byte;
  }
  std::span<const std::byte> rest() const { return rest_; }

 private:
  std::span<const std::byte> rest_;
};

// A property that no input may break.
inline void Require(bool holds) {
  if (!holds) std::abort();
}

inline std::pair<UniqueFd, UniqueFd> SocketPair() {
  int ends[2] = {-1, -1};
  Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

inline void Feed(int fd, std::span<const std::byte> bytes) {
  if (!bytes.empty()) (void)SendSome(fd, bytes);
}

inline Protection ChooseProtection(std::uint8_t choice) {
  return static_cast<Protection>(1 + choice % 3);
}

inline Handshake::Options OptionsOf(Handshake::Role role, Protection protection) {
  KeyBytes key;
  key.fill(std::byte{0x5a});
  return {.role = role,
          .protection = protection,
          .credentials = {.job_id = "fuzz", .key = JobKey(key)},
          .mine = {.rank = role == Handshake::Role::kDialler ? 1 : 0}};
}

// The ends of an authenticated connection: who dialled, and who listened.
inline std::pair<Channel, Channel> ChannelPair(Protection protection) {
  auto [a, b] = SocketPair();
  Handshake dialler(std::move(a), OptionsOf(Handshake::Role::kDialler, protection));
  Handshake listener(std::move(b), OptionsOf(Handshake::Role::kListener, protection));
  for (int i = 0; i < 8; ++i) {
    dialler.Advance();
    listener.Advance();
  }
  return {dialler.Take(), listener.Take()};
}

// A member of the job that says what the fuzzer chose, and leaves.
inline void SayAndLeave(Channel sender, std::span<const std::byte> bytes) {
  if (!bytes.empty()) Require(sender.Write(bytes) == bytes.size() && sender.Flush());
}

}  // namespace hora::fuzz
