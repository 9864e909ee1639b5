// Two ends of a connection in one process.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "hora/net/channel.h"
#include "hora/net/handshake.h"
#include "hora/net/tcp_socket.h"

namespace hora {

inline TimePoint In(Duration time) { return SteadyClock::Instance().Now() + time; }

inline std::pair<UniqueFd, UniqueFd> SocketPair() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

inline std::pair<UniqueFd, UniqueFd> TcpPair() {
  auto listener = TcpListener::Open(*SocketAddress::Parse("127.0.0.1:0"));
  auto dialled = Dial(listener->address(), In(std::chrono::seconds(10)));
  auto accepted = listener->Accept();  // on one host, a connection is made at both ends at once
  EXPECT_TRUE(dialled && accepted && accepted->valid());
  return {std::move(*dialled), std::move(*accepted)};
}

inline JobCredentials TestJob() {
  KeyBytes key;
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::byte>(3 * i + 1);
  return {.job_id = "job-7", .key = JobKey(key)};
}

inline Handshake::Options DiallerOptions(Protection protection) {
  return {.role = Handshake::Role::kDialler,
          .protection = protection,
          .credentials = TestJob(),
          .mine = {
              .rank = 3,
              .generation = 17,
              .purpose = {.kind = Purpose::Kind::kData, .lane = 2, .stripe = 5, .process_set = 9}}};
}

inline Handshake::Options ListenerOptions(Protection protection) {
  Handshake::Options options = DiallerOptions(protection);
  options.role = Handshake::Role::kListener;
  options.mine = {.rank = 1, .generation = 17, .purpose = {}};
  return options;
}

// Advances both until neither can: on one host, what one end has sent is there for the other.
inline void AdvanceBoth(Handshake& a, Handshake& b) {
  const auto ended = [](Handshake::Progress progress) {
    return progress == Handshake::Progress::kDone || progress == Handshake::Progress::kFailed;
  };
  for (int i = 0; i < 20; ++i) {
    const Handshake::Progress first = a.Advance();
    const Handshake::Progress second = b.Advance();
    if (ended(first) && ended(second)) return;
  }
}

inline std::pair<Channel, Channel> ConnectChannels(std::pair<UniqueFd, UniqueFd> sockets,
                                                   Protection protection) {
  Handshake dialler(std::move(sockets.first), DiallerOptions(protection));
  Handshake listener(std::move(sockets.second), ListenerOptions(protection));
  AdvanceBoth(dialler, listener);
  EXPECT_EQ(dialler.Advance(), Handshake::Progress::kDone) << dialler.failure().message();
  EXPECT_EQ(listener.Advance(), Handshake::Progress::kDone) << listener.failure().message();
  return {dialler.Take(), listener.Take()};
}

inline std::vector<std::byte> RandomBytes(std::size_t count, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

inline std::string NameOfProtection(const testing::TestParamInfo<Protection>& tested) {
  switch (tested.param) {
    case Protection::kTls:
      return "Tls";
    case Protection::kMac:
      return "Mac";
    case Protection::kChecksum:
      return "Checksum";
  }
  return "None";
}

inline const auto kEveryProtection =
    testing::Values(Protection::kTls, Protection::kMac, Protection::kChecksum);

}  // namespace hora
