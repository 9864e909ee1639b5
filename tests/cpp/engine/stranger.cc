#include "engine/stranger.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <random>
#include <string_view>

#include "hora/base/clock.h"
#include "hora/net/hello.h"
#include "hora/net/socket_io.h"
#include "hora/net/tcp_socket.h"

namespace hora::testing {
namespace {

constexpr Duration kPatience = std::chrono::seconds(30);  // sanitizers on a busy machine
constexpr int kSlowConnections = 30;

TimePoint In(Duration time) { return SteadyClock::Instance().Now() + time; }

Bytes Joined(std::span<const std::byte> first, std::span<const std::byte> second) {
  Bytes all(first.begin(), first.end());
  all.insert(all.end(), second.begin(), second.end());
  return all;
}

std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// As much as the listener takes; it may end the conversation at any word.
bool SendAll(int fd, std::span<const std::byte> words) {
  const TimePoint deadline = In(kPatience);
  while (!words.empty()) {
    const Result<std::size_t> sent = SendSome(fd, words);
    if (!sent || (*sent == 0 && !AwaitSocket(fd, POLLOUT, deadline))) return false;
    words = words.subspan(*sent);
  }
  return true;
}

// Hands over what has come; false when the connection is over.
bool PassOn(int from, int to, Bytes* copy) {
  std::array<std::byte, 4096> buffer;
  const Result<std::size_t> got = ReceiveSome(from, buffer);
  if (!got) return false;
  const auto words = std::span(buffer).first(*got);
  if (copy != nullptr) copy->insert(copy->end(), words.begin(), words.end());
  return SendAll(to, words);
}

}  // namespace

std::vector<SocketAddress> Listeners() {
  std::vector<SocketAddress> found;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  for (int fd = 0; fd < static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 4096)); ++fd) {
    int listens = 0;
    socklen_t size = sizeof(listens);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) continue;
    sockaddr_storage storage{};
    socklen_t bytes = sizeof(storage);
    auto* const address = reinterpret_cast<sockaddr*>(&storage);
    if (getsockname(fd, address, &bytes) != 0) continue;
    if (const auto own = SocketAddress::From(address, bytes)) found.push_back(*own);
  }
  return found;
}

Bytes RecordMember(const SocketAddress& address, const JobCredentials& credentials,
                   Protection protection) {
  Bytes said;
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd between(ends[1]);
  Handshake member(UniqueFd(ends[0]), {.role = Handshake::Role::kDialler,
                                       .protection = protection,
                                       .credentials = credentials,
                                       .mine = {}});
  const auto listener = Dial(address, In(kPatience));
  EXPECT_TRUE(listener) << listener.error().ToString();
  if (!listener) return said;
  const TimePoint deadline = In(kPatience);
  for (;;) {
    const Handshake::Progress progress = member.Advance();
    if (!PassOn(between.get(), listener->get(), &said)) break;
    if (progress == Handshake::Progress::kDone || progress == Handshake::Progress::kFailed) {
      EXPECT_EQ(progress, Handshake::Progress::kDone) << member.failure().ToString();
      break;
    }
    EXPECT_TRUE(AwaitSocket(listener->get(), POLLIN, deadline));
    if (!PassOn(listener->get(), between.get(), nullptr)) break;
  }
  EXPECT_GT(said.size(), kHelloBytes);
  return said;
}

void Stranger::AttackInEveryWay() {
  ConnectSlowly();
  for (const auto attack :
       {&Stranger::Scan, &Stranger::SayRandomBytes, &Stranger::SpeakHttp, &Stranger::CutRecordings,
        &Stranger::Replay, &Stranger::AnnounceGigabytes}) {
    (this->*attack)();
    Drip();
  }
}

void Stranger::Scan() {
  for (int i = 0; i < 20; ++i) {
    const UniqueFd connection = Connect();
    const linger reset{1, 0};
    if (i % 2 == 0) setsockopt(connection.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  }
}

void Stranger::SayRandomBytes() {
  std::mt19937_64 random(6);
  for (const std::size_t count : {1u, 7u, 8u, 64u, 127u, 128u, 129u, 4096u, 100'000u}) {
    Bytes words(count);
    for (std::byte& word : words) word = static_cast<std::byte>(random());
    EXPECT_EQ(Say(words, After::kLeave), 0u) << count << " random bytes";
  }
}

void Stranger::SpeakHttp() {
  for (const std::string_view request :
       {"GET / HTTP/1.1\r\nHost: job\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /api HTTP/1.1\r\nHost: job\r\nContent-Length: 1073741824\r\nX: 0123456789"
        "0123456789012345678901234567890123456789012345678901234567890123456789\r\n\r\n"}) {
    EXPECT_EQ(Say(BytesOf(request), After::kLeave), 0u) << request;
  }
}

void Stranger::CutRecordings() {
  for (const Bytes& stream : recorded_) {
    const std::span<const std::byte> all(stream);
    for (const std::size_t count : {std::size_t{1}, std::size_t{8}, std::size_t{12},
                                    kHelloBytes - 1, kHelloBytes + 1, all.size() - 1}) {
      const std::size_t heard = Say(all.first(count), After::kLeave);
      EXPECT_EQ(count < kHelloBytes ? heard : 0u, 0u) << count << " bytes of a hello";
    }
  }
}

// All that a member once said, at once and in turn with the answers: it proves the key to nobody.
void Stranger::Replay() {
  for (const Bytes& stream : recorded_) {
    Say(stream, After::kListen);
    const std::span<const std::byte> all(stream);
    const UniqueFd connection = Connect();
    ++conversations_;
    std::array<std::byte, kHelloBytes> answer;
    if (!SendAll(connection.get(), all.first(kHelloBytes)) ||
        !AwaitSocket(connection.get(), POLLIN, In(kPatience)) ||
        !ReceiveSome(connection.get(), answer)) {
      continue;
    }
    SendAll(connection.get(), all.subspan(kHelloBytes));
    ListenToTheEnd(connection.get());
  }
}

void Stranger::AnnounceGigabytes() {
  constexpr std::string_view kLittle("\0\0\0\x40", 4);
  constexpr std::string_view kBig("\x40\0\0\0", 4);
  constexpr std::string_view kLong("\0\0\0\x40\0\0\0\0", 8);
  constexpr std::string_view kTlsRecord("\x16\x03\x03\xff\xff", 5);
  const Bytes rest(1024, std::byte{1});
  for (const std::string_view length : {kLittle, kBig, kLong, kTlsRecord}) {
    const Bytes words = Joined(BytesOf(length), rest);
    EXPECT_EQ(Say(words, After::kLeave), 0u);
    for (const Bytes& stream : recorded_) {
      Say(Joined(std::span(stream).first(kHelloBytes), words), After::kLeave);
    }
  }
}

void Stranger::ConnectSlowly() {
  for (int i = 0; i < kSlowConnections; ++i) slow_.push_back(Connect());
}

// Of a right hello, so that nothing is wrong with it but the time that it takes.
void Stranger::Drip() {
  const auto word = std::span(recorded_.front()).subspan(dripped_++, 1);
  for (const UniqueFd& connection : slow_) {
    (void)SendSome(connection.get(), word);  // which may have been closed
  }
}

void Stranger::AwaitTheEndOfTheSlow() {
  for (const UniqueFd& connection : slow_) {
    EXPECT_EQ(ListenToTheEnd(connection.get()), 0u);
  }
  conversations_ += slow_.size();
  slow_.clear();
}

UniqueFd Stranger::Connect() {
  Result<UniqueFd> connection = Dial(target_, In(kPatience), false);
  EXPECT_TRUE(connection) << connection.error().ToString();
  return connection ? std::move(*connection) : UniqueFd();
}

std::size_t Stranger::Say(std::span<const std::byte> words, After after) {
  const UniqueFd connection = Connect();
  ++conversations_;
  SendAll(connection.get(), words);
  if (after == After::kLeave) shutdown(connection.get(), SHUT_WR);
  return ListenToTheEnd(connection.get());
}

std::size_t Stranger::ListenToTheEnd(int fd) {
  std::size_t heard = 0;
  const TimePoint deadline = In(kPatience);
  for (std::array<std::byte, 4096> buffer;;) {
    const Result<std::size_t> got = ReceiveSome(fd, buffer);
    if (!got) return heard;
    heard += *got;
    if (*got == 0 && !AwaitSocket(fd, POLLIN, deadline)) {
      ADD_FAILURE() << target_.ToString() << " keeps a connection to a stranger open";
      return heard;
    }
  }
}

}  // namespace hora::testing
