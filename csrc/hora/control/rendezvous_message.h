// What is said on the Unix sockets while a host group forms: fixed-size structs, the same binary on
// both sides or a version number that says otherwise.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/base/status.h"
#include "hora/base/unique_fd.h"
#include "hora/control/host_group.h"

namespace hora {

inline constexpr std::uint32_t kRendezvousVersion = 4;

// The first and only thing that a rank says unasked. `magic`, `version` and `key` keep their place
// in every version, so that a member of the job is told about a version that differs.
struct Hello {
  static constexpr std::uint64_t kMagic = 0x6f6c'6c65'6861'726f;  // "orahello" in memory
  static constexpr std::int32_t kNoRank = -1;  // a refusal follows: why the group cannot be

  std::uint64_t magic = kMagic;
  std::uint32_t version = kRendezvousVersion;
  std::uint32_t reserved = 0;
  KeyBytes key{};
  std::int32_t rank = 0;
  std::int32_t size = 0;
  std::int32_t pid = 0;
  std::uint32_t reserved_too = 0;
};
static_assert(sizeof(Hello) == 64);

enum class NoticeKind : std::uint32_t {
  kWelcome = 1,  // from rank 0, with the board's descriptor: attach it
  kReady = 2,    // to rank 0: attached
  kGo = 3,       // from rank 0: everybody is ready
  kRefusal = 4,  // both ways: `code` and `text` say why there will be no group
};

// Everything after the hello.
struct Notice {
  NoticeKind kind = NoticeKind::kRefusal;
  std::uint32_t code = 0;
  std::int32_t pid = 0;
  std::int32_t size = 0;
  std::uint64_t generation = 0;
  Tunables tunables;
  std::array<char, 512> text{};  // zero-terminated

  static Notice Refusal(const Status& cause);
  Status cause() const;  // of a refusal
};

// Constant time, whatever the keys.
bool SameKey(std::span<const std::byte, 32> a, std::span<const std::byte, 32> b);

// Sends all of it at once, with the descriptor `passed_fd` unless that is negative. Messages are
// far smaller than an empty socket buffer, so this fails rather than waits.
Status SendMessage(int fd, std::span<const std::byte> message, int passed_fd = -1);

template <class Message>
Status SendMessage(int fd, const Message& message, int passed_fd = -1) {
  return SendMessage(fd, std::as_bytes(std::span(&message, 1)), passed_fd);
}

// Collects one message from a non-blocking socket.
enum class Progress : std::uint8_t { kIncomplete, kComplete, kClosed };
class MessageReader {
 public:
  // Reads what is there into `message`; `kClosed` also for an error of the connection.
  Progress Read(int fd, std::span<std::byte> message);
  void Reset() { received_ = 0; }
  UniqueFd TakePassedFd() { return std::move(passed_fd_); }
  bool descriptor_lost() const { return descriptor_lost_; }  // this process may open no more

 private:
  std::size_t received_ = 0;
  UniqueFd passed_fd_;
  bool descriptor_lost_ = false;
};

// The other end of an AF_UNIX connection, as the kernel knows it.
struct PeerIdentity {
  int pid = 0;  // 0 when it is in a process namespace that this process does not see
  bool same_user = false;
};
PeerIdentity IdentityOf(int fd);

// Waits for `events` on one descriptor; false at the deadline. Signals do not end it.
bool PollUntil(int fd, short events, TimePoint deadline);
int MillisecondsUntil(TimePoint deadline);  // for poll(2): rounded up, not negative
bool HasHungUp(int fd);

}  // namespace hora
