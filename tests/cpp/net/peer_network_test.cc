#include "hora/net/peer_network.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <latch>
#include <mutex>

#include "hora/base/format.h"
#include "hora/net/socket_io.h"
#include "hora/net/tcp_socket.h"
#include "net/store_job.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Purpose kControl{.kind = Purpose::Kind::kControl};
constexpr Purpose kHeartbeat{.kind = Purpose::Kind::kHeartbeat};

struct Protections {
  Protection control;
  Protection data;
  const char* name;
};

// A network for each rank, all in this process.
class PeerNetworkTest : public ::testing::TestWithParam<Protections> {
 protected:
  void Open(int size) {
    for (int rank = 0; rank < size; ++rank) networks_.push_back(OpenOne(rank));
    for (const auto& network : networks_) addresses_.push_back(network->address());
  }
  std::unique_ptr<PeerNetwork> OpenOne(int rank) const {
    auto network = PeerNetwork::Open({.rank = rank,
                                      .bind = Loopback(),
                                      .credentials = SampleCredentials(),
                                      .control = GetParam().control,
                                      .data = GetParam().data});
    EXPECT_TRUE(network) << network.error().ToString();
    return network ? std::move(*network) : nullptr;
  }
  void BeginAll(std::uint64_t generation = 5) {
    for (const auto& network : networks_) network->Begin(generation, addresses_);
  }
  PeerNetwork& operator[](int rank) { return *networks_[static_cast<std::size_t>(rank)]; }

  std::vector<std::unique_ptr<PeerNetwork>> networks_;
  std::vector<SocketAddress> addresses_;
};

INSTANTIATE_TEST_SUITE_P(
    Settings, PeerNetworkTest,
    ::testing::Values(Protections{Protection::kMac, Protection::kChecksum, "MacAndChecksum"},
                      Protections{Protection::kTls, Protection::kChecksum, "TlsAndChecksum"},
                      Protections{Protection::kTls, Protection::kTls, "Tls"}),
    [](const auto& param) { return std::string(param.param.name); });

void Say(Channel& channel, char word) {
  const auto byte = std::as_bytes(std::span(&word, 1));
  const auto taken = channel.Write(byte);
  ASSERT_TRUE(taken) << taken.error().ToString();
  ASSERT_EQ(*taken, 1u);
  ASSERT_TRUE(*channel.Flush());
}

// The next byte; 0 when there is none within 20 s or the other end has gone.
char Hear(Channel& channel) {
  for (const TimePoint deadline = In(seconds(20));;) {
    char word = 0;
    const auto got = channel.Read(std::as_writable_bytes(std::span(&word, 1)));
    if (!got) return 0;
    if (*got == 1) return word;
    if (!AwaitSocket(channel.fd(), POLLIN, deadline)) return 0;
  }
}

void ExpectThatTheySpeak(Result<Channel>& channel, int self, int peer) {
  ASSERT_TRUE(channel) << channel.error().ToString();
  Say(*channel, static_cast<char>('a' + self));
  EXPECT_EQ(Hear(*channel), 'a' + peer);
}

TEST_P(PeerNetworkTest, FourRanksConnectForEveryPurpose) {
  constexpr int kRanks = 4;
  const StoreJob job;
  std::vector<Purpose> purposes{kControl, kHeartbeat, {Purpose::Kind::kControl, 0, 0, 3}};
  for (std::uint8_t lane = 0; lane < 2; ++lane) {
    for (std::uint16_t stripe = 0; stripe < 2; ++stripe) {
      purposes.push_back({Purpose::Kind::kData, lane, stripe, 0});
    }
  }
  OnThreads(kRanks, [&](int rank) {
    const auto store = job.Connect(rank);
    const auto network = OpenOne(rank);
    const auto meeting = store->Meet(rank, kRanks, network->address().ToString(), In(seconds(20)));
    ASSERT_TRUE(meeting) << meeting.error().ToString();
    std::vector<SocketAddress> addresses;
    for (const std::string& told : meeting->told) addresses.push_back(*SocketAddress::Parse(told));
    network->Begin(meeting->generation, addresses);
    // Each in an order of its own: what comes before it is asked for is kept.
    std::vector<Channel> channels;
    for (std::size_t i = 0; i < purposes.size(); ++i) {
      const Purpose& purpose = purposes[(i + static_cast<std::size_t>(rank) * 2) % purposes.size()];
      for (int step = 1; step < kRanks; ++step) {
        const int peer = (rank + step) % kRanks;
        auto channel = network->Connect(peer, purpose, In(seconds(20)));
        ASSERT_TRUE(channel) << channel.error().ToString();
        EXPECT_EQ(channel->protection(),
                  purpose.kind == Purpose::Kind::kData ? GetParam().data : GetParam().control);
        Say(*channel, static_cast<char>('a' + rank));
        channels.push_back(std::move(*channel));
      }
    }
    std::size_t next = 0;
    for (std::size_t i = 0; i < purposes.size(); ++i) {
      for (int step = 1; step < kRanks; ++step) {
        EXPECT_EQ(Hear(channels[next++]), 'a' + (rank + step) % kRanks);
      }
    }
  });
}

TEST_P(PeerNetworkTest, ManyThreadsConnectAtOnce) {
  Open(2);
  BeginAll();
  OnThreads(16, [&](int thread) {
    const int rank = thread % 2;
    const Purpose purpose{Purpose::Kind::kData, static_cast<std::uint8_t>(thread / 2), 0, 0};
    for (int round = 0; round < 5; ++round) {
      auto channel = (*this)[rank].Connect(1 - rank, purpose, In(seconds(20)));
      ExpectThatTheySpeak(channel, rank, 1 - rank);
      if (rank == 1) {
        Say(*channel, 'x');
      } else {
        EXPECT_EQ(Hear(*channel), 'x');  // both hang up together
      }
    }
  });
}

TEST_P(PeerNetworkTest, ADiallerWaitsForAPeerThatHasNotBegun) {
  Open(2);
  networks_[1]->Begin(5, addresses_);
  std::latch dialling(1);
  std::jthread late([&] {
    dialling.wait();
    networks_[0]->Begin(5, addresses_);
    auto channel = networks_[0]->Connect(1, kControl, In(seconds(20)));
    ExpectThatTheySpeak(channel, 0, 1);
  });
  const auto refused = networks_[1]->Connect(0, kControl, In(milliseconds(50)));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), StatusCode::kTimeout);
  dialling.count_down();
  auto channel = networks_[1]->Connect(0, kControl, In(seconds(20)));
  ExpectThatTheySpeak(channel, 1, 0);
}

TEST_P(PeerNetworkTest, AStaleGenerationIsRefusedByBoth) {
  Open(2);
  networks_[0]->Begin(6, addresses_);
  networks_[1]->Begin(5, addresses_);
  const auto stale = networks_[1]->Connect(0, kControl, In(seconds(20)));
  ASSERT_FALSE(stale);
  EXPECT_EQ(stale.error().code(), StatusCode::kPeerFailed);
  EXPECT_NE(stale.error().message().find("it is in generation 6, this process still in 5"),
            std::string::npos)
      << stale.error().message();
  EXPECT_FALSE(networks_[0]->Connect(1, kControl, In(milliseconds(10))));
}

TEST_P(PeerNetworkTest, AnAbandonedAttemptIsReplacedByTheNext) {
  Open(2);
  BeginAll();
  { EXPECT_TRUE(networks_[1]->Connect(0, kControl, In(seconds(20)))); }  // and hangs up
  auto second = networks_[1]->Connect(0, kControl, In(seconds(20)));
  auto channel = networks_[0]->Connect(1, kControl, In(seconds(20)));
  ASSERT_TRUE(second && channel);
  Say(*second, '2');
  EXPECT_EQ(Hear(*channel), '2');
}

TEST_P(PeerNetworkTest, AnArrivalThatHasLeftDoesNotCount) {
  Open(2);
  BeginAll();
  { EXPECT_TRUE(networks_[1]->Connect(0, kControl, In(seconds(20)))); }
  const auto channel = networks_[0]->Connect(1, kControl, In(milliseconds(100)));
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().code(), StatusCode::kTimeout);
  EXPECT_NE(channel.error().message().find("rank 0 has no control channel to rank 1 at 127.0.0.1"),
            std::string::npos)
      << channel.error().message();
}

TEST_P(PeerNetworkTest, APeerThatHasGoneIsNamedAtOnce) {
  Open(2);
  BeginAll();
  networks_[0].reset();
  const auto channel = networks_[1]->Connect(0, kHeartbeat, In(seconds(60)));
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().code(), StatusCode::kPeerFailed);
  EXPECT_TRUE(channel.error().message().starts_with(
      fmt::format("rank 1 has no heartbeat channel to rank 0: {} refuses connections",
                  addresses_[0].ToString())))
      << channel.error().message();
}

TEST_P(PeerNetworkTest, AnotherRankAtTheAddressIsNotThePeer) {
  Open(3);
  std::swap(addresses_[0], addresses_[1]);
  BeginAll();
  const auto channel = networks_[2]->Connect(0, kControl, In(seconds(20)));
  ASSERT_FALSE(channel);
  EXPECT_NE(channel.error().message().find("rank 1 listens there instead"), std::string::npos)
      << channel.error().message();
}

TEST_P(PeerNetworkTest, StrangersAndOtherJobsDelayNobody) {
  Open(2);
  BeginAll();
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 100; ++i) {
    Result<UniqueFd> socket = Dial(addresses_[0], In(seconds(20)));
    ASSERT_TRUE(socket);
    const std::string_view words = i % 2 == 0 ? "GET / HTTP/1.1\r\n\r\n" : std::string_view();
    send(socket->get(), words.data(), words.size(), MSG_NOSIGNAL);
    strangers.push_back(std::move(*socket));
  }
  const Handshake::Options other{.protection = GetParam().control,
                                 .credentials = SampleCredentials(9),
                                 .mine = {.rank = 1, .generation = 5, .purpose = kControl}};
  EXPECT_FALSE(Handshake::Run(*Dial(addresses_[0], In(seconds(20))), other, In(seconds(20))));
  const TimePoint began = SteadyClock::Instance().Now();
  OnThreads(2, [&](int rank) {
    auto channel = (*this)[rank].Connect(1 - rank, kControl, In(seconds(20)));
    ExpectThatTheySpeak(channel, rank, 1 - rank);
  });
  EXPECT_LT(SteadyClock::Instance().Now() - began, kHandshakePatience);
}

TEST_P(PeerNetworkTest, AMemberCannotChooseAWeakerProtection) {
  if (GetParam().control == GetParam().data) GTEST_SKIP() << "there is only one";
  Open(2);
  BeginAll();
  const Handshake::Options weaker{.protection = GetParam().data,
                                  .credentials = SampleCredentials(),
                                  .mine = {.rank = 1, .generation = 5, .purpose = kControl}};
  Result<Channel> channel =
      Handshake::Run(*Dial(addresses_[0], In(seconds(20))), weaker, In(seconds(20)));
  ASSERT_TRUE(channel) << channel.error().ToString();
  EXPECT_EQ(Hear(*channel), 'P');
  EXPECT_EQ(Hear(*channel), 0);
}

class PeerNetworkThread : public ::testing::Test {
 protected:
  void SetUp() override {
    auto network = PeerNetwork::Open(
        {.bind = Loopback(), .credentials = SampleCredentials(), .control = Protection::kMac});
    ASSERT_TRUE(network) << network.error().ToString();
    network_ = std::move(*network);
    ASSERT_EQ(pipe(pipe_.data()), 0);
  }
  void TearDown() override {
    for (const int end : pipe_) close(end);
  }
  void Put() const { EXPECT_EQ(write(pipe_[1], "!", 1), 1); }
  void Get() const {
    char byte = 0;
    EXPECT_EQ(read(pipe_[0], &byte, 1), 1);
  }
  // Waits until the count has reached this; false after 20 s.
  bool AwaitCount(int count) {
    std::unique_lock lock(mutex_);
    return counted_.wait_until(lock, In(seconds(20)), [&] { return count_ >= count; });
  }
  void Count() {
    {
      const std::lock_guard lock(mutex_);
      ++count_;
    }
    counted_.notify_all();
  }
  int count() {
    const std::lock_guard lock(mutex_);
    return count_;
  }

  std::unique_ptr<PeerNetwork> network_;
  std::array<int, 2> pipe_{};
  std::mutex mutex_;
  std::condition_variable counted_;
  int count_ = 0;
};

TEST_F(PeerNetworkThread, AWatchIsSilentUntilItIsRearmed) {
  network_->Watch(pipe_[0], [this] { Count(); });
  Put();
  ASSERT_TRUE(AwaitCount(1));
  Put();  // still readable, and more so
  // A second descriptor shows that the thread has looked at everything since.
  std::array<int, 2> other{};
  ASSERT_EQ(pipe(other.data()), 0);
  network_->Watch(other[0], [this] { Count(); });
  EXPECT_EQ(write(other[1], "!", 1), 1);
  ASSERT_TRUE(AwaitCount(2));
  network_->Unwatch(other[0]);
  EXPECT_EQ(count(), 2);
  network_->Rearm(pipe_[0]);
  EXPECT_TRUE(AwaitCount(3));
  network_->Unwatch(pipe_[0]);
  network_->Rearm(pipe_[0]);  // of no effect
  for (const int end : other) close(end);
}

TEST_F(PeerNetworkThread, UnwatchWaitsForTheCall) {
  std::atomic<bool> inside{false};
  std::atomic<bool> left{false};
  for (int round = 0; round < 200; ++round) {
    left = false;
    network_->Watch(pipe_[0], [&] {
      inside = true;
      Count();
      inside = false;
      left = true;
    });
    Put();
    if (round % 2 == 0) {
      ASSERT_TRUE(AwaitCount(1));
    }
    network_->Unwatch(pipe_[0]);
    EXPECT_FALSE(inside);
    Get();
  }
}

TEST_F(PeerNetworkThread, TicksUntilItEnds) {
  network_->Tick(milliseconds(1), [this] { Count(); });
  EXPECT_TRUE(AwaitCount(5));
  network_.reset();
  const int last = count();
  EXPECT_GE(last, 5);
  EXPECT_EQ(count(), last);
}

TEST_F(PeerNetworkThread, AForkedChildKeepsNoSocketOpen) {
  Result<UniqueFd> stranger = Dial(network_->address(), In(seconds(20)));
  ASSERT_TRUE(stranger);
  const SocketAddress address = network_->address();
  const pid_t child = fork();
  if (child == 0) {
    network_->CloseInForkedChild();
    Put();
    pause();
    _exit(0);
  }
  Get();
  network_.reset();
  // Only the child could still listen there.
  EXPECT_FALSE(Dial(address, In(milliseconds(500))));
  kill(child, SIGKILL);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

}  // namespace
}  // namespace hora
