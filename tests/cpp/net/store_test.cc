#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <latch>
#include <mutex>
#include <set>

#include "hora/base/format.h"
#include "hora/net/handshake.h"
#include "hora/net/tcp_socket.h"
#include "net/store_job.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class StoreTest : public ::testing::TestWithParam<Protection> {
 protected:
  StoreJob job_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Protections, StoreTest,
                         ::testing::Values(Protection::kMac, Protection::kTls),
                         [](const auto& param) {
                           return param.param == Protection::kTls ? "Tls" : "Mac";
                         });

UniqueFd ConnectAsStranger(const SocketAddress& address) {
  Result<UniqueFd> socket = Dial(address, In(seconds(20)));
  EXPECT_TRUE(socket) << socket.error().ToString();
  return socket ? std::move(*socket) : UniqueFd();
}

// Waits until the other end hangs up; false after 20 s.
bool AwaitEnd(int fd) {
  std::array<char, 256> said;
  for (const TimePoint deadline = In(seconds(20));;) {
    pollfd waiting{fd, POLLIN, 0};
    if (SteadyClock::Instance().Now() >= deadline) return false;
    if (poll(&waiting, 1, 1000) > 0 && recv(fd, said.data(), said.size(), MSG_DONTWAIT) <= 0) {
      return true;
    }
  }
}

TEST_P(StoreTest, FourRanksMeetAgainAndAgain) {
  constexpr int kRanks = 4;
  std::mutex mutex;
  std::set<std::uint64_t> generations;
  OnThreads(kRanks, [&](int rank) {
    const auto store = job_.Connect(rank);
    ASSERT_NE(store, nullptr);
    std::uint64_t last = 0;
    for (int round = 0; round < 20; ++round) {
      const auto meeting =
          store->Meet(rank, kRanks, fmt::format("{} in {}", rank, round), In(seconds(20)));
      ASSERT_TRUE(meeting) << meeting.error().ToString();
      EXPECT_GT(meeting->generation, last);
      last = meeting->generation;
      for (int other = 0; other < kRanks; ++other) {
        EXPECT_EQ(meeting->told[static_cast<std::size_t>(other)],
                  fmt::format("{} in {}", other, round));
      }
      const std::lock_guard lock(mutex);
      generations.insert(last);
    }
  });
  EXPECT_EQ(generations.size(), 20u);
}

// Rank 1 can never come: rank 0 need not wait for it.
TEST_P(StoreTest, AMemberWithAnotherProtectionEndsTheMeeting) {
  const Protection other = GetParam() == Protection::kTls ? Protection::kMac : Protection::kTls;
  const auto store = job_.Connect(0);
  ASSERT_NE(store, nullptr);
  std::jthread differs([&] {
    const auto refused =
        ConnectToStore(job_.address(), 1, SampleCredentials(), other, In(seconds(20)));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
  });
  const TimePoint soon = In(seconds(10));
  const auto meeting = store->Meet(0, 2, "", In(seconds(60)));
  ASSERT_FALSE(meeting);
  EXPECT_LT(SteadyClock::Instance().Now(), soon);
  EXPECT_EQ(meeting.error().code(), StatusCode::kInvalidArgument);
  const std::string& message = meeting.error().message();
  EXPECT_NE(message.find("turned away a process of this job: 127.0.0.1:"), std::string::npos)
      << message;
  EXPECT_NE(message.find("set HORA_CONTROL_PLANE to the same value"), std::string::npos) << message;
}

TEST_P(StoreTest, AProblemEndsTheMeeting) {
  const auto store = job_.Connect(0);
  ASSERT_NE(store, nullptr);
  std::jthread messenger([&] {
    const Status told = TellStore(job_.address(), 1, SampleCredentials(), GetParam(),
                                  "rank 1 on h2 has no disk", In(seconds(20)));
    EXPECT_TRUE(told.ok()) << told.ToString();
  });
  const TimePoint soon = In(seconds(10));
  const auto meeting = store->Meet(0, 2, "", In(seconds(60)));
  ASSERT_FALSE(meeting);
  EXPECT_LT(SteadyClock::Instance().Now(), soon);
  EXPECT_EQ(meeting.error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(meeting.error().message(), "rank 1 on h2 has no disk");
}

TEST_P(StoreTest, ManyRanksComeAtOnce) {
  constexpr int kRanks = 64;
  OnThreads(kRanks, [&](int rank) {
    const auto store = job_.Connect(rank);
    ASSERT_NE(store, nullptr);
    const auto meeting = store->Meet(rank, kRanks, std::to_string(rank), In(seconds(60)));
    ASSERT_TRUE(meeting) << meeting.error().ToString();
    EXPECT_EQ(meeting->told.back(), "63");
  });
}

TEST_P(StoreTest, KeysAreSetReplacedAndWaitedFor) {
  OnThreads(3, [&](int rank) {
    const auto store = job_.Connect(rank);
    ASSERT_NE(store, nullptr);
    if (rank == 0) {
      const std::string large(kMaxStoreValueBytes, 'v');
      EXPECT_TRUE(store->Set("large", large).ok());
      EXPECT_EQ(*store->Get("large", In(seconds(20))), large);
      EXPECT_TRUE(store->Set("large", std::string("a\0b", 3)).ok());
      EXPECT_EQ(*store->Get("large", In(seconds(20))), std::string("a\0b", 3));
      EXPECT_TRUE(store->Set("go", "now").ok());
    } else {
      const auto value = store->Get("go", In(seconds(20)));
      ASSERT_TRUE(value) << value.error().ToString();
      EXPECT_EQ(*value, "now");
    }
  });
}

TEST_P(StoreTest, RefusesWhatIsTooLarge) {
  const auto store = job_.Connect(0);
  EXPECT_EQ(store->Set(std::string(kMaxStoreKeyBytes + 1, 'k'), "").code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store->Set("k", std::string(kMaxStoreValueBytes + 1, 'v')).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(
      store->Meet(0, 1, std::string(kMaxStoreValueBytes + 1, 't'), In(seconds(1))).error().code(),
      StatusCode::kInvalidArgument);
  EXPECT_TRUE(store->Set(std::string(kMaxStoreKeyBytes, 'k'), "").ok());
}

TEST_P(StoreTest, ACallOfOneThreadWaitsForThatOfAnother) {
  const auto store = job_.Connect(0);
  OnThreads(4, [&](int thread) {
    for (int i = 0; i < 50; ++i) {
      const std::string key = fmt::format("{}-{}", thread, i);
      EXPECT_TRUE(store->Set(key, key).ok());
      EXPECT_EQ(*store->Get(key, In(seconds(20))), key);
    }
  });
}

TEST_P(StoreTest, NamesTheRankThatIsMissing) {
  std::latch there(3);
  OnThreads(4, [&](int rank) {
    if (rank == 2) return;
    const auto store = job_.Connect(rank);
    there.arrive_and_wait();
    // Rank 0 has the least patience; by then the others wait, too.
    const auto meeting = store->Meet(rank, 4, "", In(milliseconds(rank == 0 ? 1500 : 2000)));
    ASSERT_FALSE(meeting);
    EXPECT_EQ(meeting.error().code(), StatusCode::kTimeout);
    EXPECT_NE(meeting.error().message().find("missing 2"), std::string::npos)
        << meeting.error().message();
  });
}

TEST_P(StoreTest, TheDeadlineOfAGetNamesTheKey) {
  const auto store = job_.Connect(0);
  const auto value = store->Get("never", In(milliseconds(50)));
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().code(), StatusCode::kTimeout);
  EXPECT_NE(value.error().message().find("nobody set the key 'never'"), std::string::npos);
  EXPECT_TRUE(store->Set("after", "it").ok());  // the connection is still good
}

TEST_P(StoreTest, ARankThatWasGivenUpMayComeAgain) {
  const auto first = job_.Connect(0);
  EXPECT_FALSE(first->Meet(0, 2, "early", In(milliseconds(30))));
  { job_.Connect(1)->Meet(1, 2, "gone", In(milliseconds(30))).value_or(Meeting{}); }
  OnThreads(2, [&](int rank) {
    const auto store = job_.Connect(rank);
    const auto meeting = store->Meet(rank, 2, fmt::format("late {}", rank), In(seconds(20)));
    ASSERT_TRUE(meeting) << meeting.error().ToString();
    EXPECT_EQ(meeting->told, (std::vector<std::string>{"late 0", "late 1"}));
  });
}

TEST_P(StoreTest, ARankTwiceFailsForAllWithBothAddresses) {
  OnThreads(2, [&](int) {
    const auto store = job_.Connect(1);
    const auto meeting = store->Meet(1, 2, "", In(seconds(20)));
    ASSERT_FALSE(meeting);
    EXPECT_EQ(meeting.error().code(), StatusCode::kMismatch);
    EXPECT_NE(meeting.error().message().find("claimed by two processes: one at 127.0.0.1:"),
              std::string::npos)
        << meeting.error().message();
  });
  // Also for who comes late.
  const auto meeting = job_.Connect(0)->Meet(0, 2, "", In(seconds(20)));
  ASSERT_FALSE(meeting);
  EXPECT_EQ(meeting.error().code(), StatusCode::kMismatch);
}

TEST_P(StoreTest, SilentAndHostileStrangersDelayNobody) {
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 200; ++i) {
    strangers.push_back(ConnectAsStranger(job_.address()));
    const std::string_view words = i % 3 == 0   ? "GET / HTTP/1.1\r\nHost: store\r\n\r\n"
                                   : i % 3 == 1 ? "\x16\x03\x01\x02\x00\x01"
                                                : "";
    send(strangers.back().get(), words.data(), words.size(), MSG_NOSIGNAL);
  }
  const TimePoint began = SteadyClock::Instance().Now();
  OnThreads(4, [&](int rank) {
    const auto store = job_.Connect(rank);
    const auto meeting = store->Meet(rank, 4, "", In(seconds(20)));
    EXPECT_TRUE(meeting) << meeting.error().ToString();
  });
  // Without waiting for the strangers' patience to end.
  EXPECT_LT(SteadyClock::Instance().Now() - began, kHandshakePatience);
  for (const UniqueFd& stranger : strangers) EXPECT_TRUE(AwaitEnd(stranger.get()));
}

TEST_P(StoreTest, AMemberThatBreaksTheProtocolIsDroppedAlone) {
  const Handshake::Options options{.protection = GetParam(), .credentials = SampleCredentials()};
  Result<Channel> channel =
      Handshake::Run(ConnectAsStranger(job_.address()), options, In(seconds(20)));
  ASSERT_TRUE(channel) << channel.error().ToString();
  const std::array<std::byte, 8> length{std::byte{0xff}, std::byte{0xff}, std::byte{0xff}};
  ASSERT_TRUE(channel->Write(length));
  EXPECT_TRUE(*channel->Flush());
  EXPECT_TRUE(AwaitEnd(channel->fd()));
  EXPECT_TRUE(job_.Connect(0)->Meet(0, 1, "", In(seconds(20))));
}

TEST_P(StoreTest, AnotherKeyIsRefusedSoon) {
  const auto store =
      ConnectToStore(job_.address(), 0, SampleCredentials(8), GetParam(), In(seconds(20)));
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code(), StatusCode::kPeerFailed);
  EXPECT_NE(store.error().message().find("the store at 127.0.0.1:"), std::string::npos);
}

TEST_P(StoreTest, WhoWaitsIsToldThatTheStoreHasGone) {
  std::latch there(3);
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto store = job_.Connect(rank);
      there.count_down();
      const auto meeting =
          rank < 2 ? store->Meet(rank, 4, "", In(seconds(60)))
                   : store->Get("never", In(seconds(60))).map([](auto&&) { return Meeting{}; });
      ASSERT_FALSE(meeting);
      EXPECT_EQ(meeting.error().code(), StatusCode::kPeerFailed);
      EXPECT_NE(meeting.error().message().find(job_.address().ToString()), std::string::npos)
          << meeting.error().message();
      const auto again = store->Get("never", In(seconds(60)));
      ASSERT_FALSE(again);
      EXPECT_EQ(again.error().code(), StatusCode::kPeerFailed);
    });
  }
  there.wait();
  job_.Stop();
}

TEST_P(StoreTest, AClientFindsAStoreThatWasStartedAnew) {
  const auto store = job_.Connect(0);
  EXPECT_TRUE(store->Set("key", "old").ok());
  job_.Stop();
  job_.Start(job_.address());
  EXPECT_TRUE(store->Set("key", "new").ok());
  EXPECT_EQ(*store->Get("key", In(seconds(20))), "new");
}

TEST(StoreServer, NobodyListensOnEveryInterface) {
  for (const char* wildcard : {"0.0.0.0:0", "[::]:0"}) {
    const auto server = StoreServer::Start(*SocketAddress::Parse(wildcard), SampleCredentials());
    ASSERT_FALSE(server);
    EXPECT_EQ(server.error().code(), StatusCode::kInvalidArgument);
  }
}

TEST(StoreServer, AClientWaitsForItsStoreAndNamesIt) {
  Result<TcpListener> listener = TcpListener::Open(Loopback());
  const SocketAddress address = listener->address();
  { const TcpListener closed = std::move(*listener); }
  const auto store =
      ConnectToStore(address, 0, SampleCredentials(), Protection::kMac, In(milliseconds(100)));
  ASSERT_FALSE(store);
  EXPECT_TRUE(store.error().message().starts_with("the store at " + address.ToString()))
      << store.error().message();
}

}  // namespace
}  // namespace hora
