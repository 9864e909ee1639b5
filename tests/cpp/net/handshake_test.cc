#include "hora/net/handshake.h"

#include <poll.h>
#include <sys/resource.h>

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <thread>

#include "gtest/gtest.h"

#include "hora/net/hello.h"
#include "hora/net/socket_io.h"
#include "net/connection.h"

namespace hora {
namespace {

using Progress = Handshake::Progress;
using Bytes = std::vector<std::byte>;

Bytes ToBytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Bytes ReceiveAll(int fd) {
  Bytes bytes(4096);
  const auto got = ReceiveSome(fd, std::span(bytes));
  bytes.resize(got.value_or(0));
  return bytes;
}

void SendAll(int fd, const Bytes& bytes) {
  if (!bytes.empty()) (void)SendSome(fd, std::span<const std::byte>(bytes));
}

// Two handshakes, and somebody between them who may change or keep what they say.
struct Relayed {
  std::optional<Handshake> dialler;
  std::optional<Handshake> listener;
  Bytes from_dialler;  // all that was said
  Bytes from_listener;

  using Change = std::function<void(Bytes&, std::size_t before)>;

  Relayed(const Handshake::Options& dials, const Handshake::Options& listens,
          const Change& change_dialler = nullptr, const Change& change_listener = nullptr) {
    auto [a, near_a] = SocketPair();
    auto [near_b, b] = SocketPair();
    dialler.emplace(std::move(a), dials);
    listener.emplace(std::move(b), listens);
    for (int i = 0; i < 12; ++i) {
      dialler->Advance();
      Relay(near_a.get(), near_b.get(), from_dialler, change_dialler);
      listener->Advance();
      Relay(near_b.get(), near_a.get(), from_listener, change_listener);
    }
    // What does not come any more: the end of the connection.
    near_a = UniqueFd();
    near_b = UniqueFd();
    dialler->Advance();
    listener->Advance();
  }

  static void Relay(int from, int to, Bytes& said, const Change& change) {
    Bytes bytes = ReceiveAll(from);
    const std::size_t before = said.size();
    said.insert(said.end(), bytes.begin(), bytes.end());
    if (change) change(bytes, before);
    SendAll(to, bytes);
  }

  void ExpectRefused(StatusCode code, std::string_view said) {
    for (Handshake* const each : {&*dialler, &*listener}) {
      ASSERT_EQ(each->Advance(), Progress::kFailed);
      EXPECT_EQ(each->failure().code(), code) << each->failure().message();
      EXPECT_NE(each->failure().message().find(said), std::string::npos)
          << each->failure().message();
    }
  }
};

class HandshakeTest : public testing::TestWithParam<Protection> {
 protected:
  Handshake::Options Dials() const { return DiallerOptions(GetParam()); }
  Handshake::Options Listens() const { return ListenerOptions(GetParam()); }

  // What a listener answers to these bytes, after which the other end closes.
  void ExpectListenerRefuses(const Bytes& bytes) {
    auto [stranger, own] = SocketPair();
    Handshake listener(std::move(own), Listens());
    EXPECT_EQ(listener.Advance(), Progress::kWantsRead);
    SendAll(stranger.get(), bytes);
    listener.Advance();
    { const UniqueFd closed = std::move(stranger); }
    for (int i = 0; i < 3; ++i) listener.Advance();
    EXPECT_EQ(listener.Advance(), Progress::kFailed);
    EXPECT_EQ(listener.failure().code(), StatusCode::kPeerFailed);
    EXPECT_FALSE(listener.is_member());
  }
};
INSTANTIATE_TEST_SUITE_P(Protections, HandshakeTest, kEveryProtection, NameOfProtection);

TEST_P(HandshakeTest, TellsEachEndWhoTheOtherIs) {
  auto sockets = TcpPair();
  Handshake dialler(std::move(sockets.first), Dials());
  Handshake listener(std::move(sockets.second), Listens());
  AdvanceBoth(dialler, listener);
  ASSERT_EQ(dialler.Advance(), Progress::kDone) << dialler.failure().message();
  ASSERT_EQ(listener.Advance(), Progress::kDone) << listener.failure().message();
  EXPECT_TRUE(dialler.is_member() && listener.is_member());
  EXPECT_EQ(listener.peer().rank, 3);
  EXPECT_EQ(listener.peer().generation, 17u);
  EXPECT_EQ(listener.peer().purpose, Dials().mine.purpose);
  EXPECT_EQ(dialler.peer().rank, 1);
  EXPECT_EQ(dialler.peer().purpose, Dials().mine.purpose);
  Channel a = dialler.Take();
  Channel b = listener.Take();
  EXPECT_EQ(a.protection(), GetParam());
}

TEST_P(HandshakeTest, RunsToTheEndForADiallerThatMayBlock) {
  auto sockets = TcpPair();
  Introduction seen;
  Result<Channel> dialled = Fail(Status());
  {
    std::jthread dialler([&] {
      dialled =
          Handshake::Run(std::move(sockets.first), Dials(), In(std::chrono::seconds(20)), &seen);
    });
    EXPECT_TRUE(Handshake::Run(std::move(sockets.second), Listens(), In(std::chrono::seconds(20))));
  }
  ASSERT_TRUE(dialled) << dialled.error().message();
  EXPECT_EQ(seen.rank, 1);
}

TEST_P(HandshakeTest, RefusesAnotherKey) {
  Handshake::Options other = Dials();
  KeyBytes key;
  std::copy_n(other.credentials.key.bytes().begin(), key.size(), key.begin());
  key[31] ^= std::byte{1};
  other.credentials.key = JobKey(key);
  Relayed(other, Listens()).ExpectRefused(StatusCode::kPeerFailed, "does not have its key");
}

TEST_P(HandshakeTest, RefusesAnotherJob) {
  Handshake::Options other = Dials();
  other.credentials.job_id = "job-8";
  Relayed(other, Listens()).ExpectRefused(StatusCode::kPeerFailed, "job-8");
}

TEST_P(HandshakeTest, NamesBothProtectionsAndTheSetting) {
  for (const Protection other : {Protection::kTls, Protection::kMac, Protection::kChecksum}) {
    if (other == GetParam()) continue;
    Relayed relayed(DiallerOptions(other), Listens());
    const bool is_of_data = other == Protection::kChecksum || GetParam() == Protection::kChecksum;
    relayed.ExpectRefused(StatusCode::kInvalidArgument,
                          is_of_data ? "HORA_DATA_PLANE" : "HORA_CONTROL_PLANE");
    relayed.ExpectRefused(StatusCode::kInvalidArgument, ToString(other));
    relayed.ExpectRefused(StatusCode::kInvalidArgument, ToString(GetParam()));
  }
}

TEST_P(HandshakeTest, NamesBothVersions) {
  auto [stranger, own] = SocketPair();
  Handshake listener(std::move(own), Listens());
  NetworkHello hello{.version = 47, .protection = GetParam(), .job_id = "job-7"};
  const HelloBytes bytes = *EncodeHello(hello, TestJob().key);
  SendAll(stranger.get(), {bytes.begin(), bytes.end()});
  ASSERT_EQ(listener.Advance(), Progress::kFailed);
  EXPECT_EQ(listener.failure().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(listener.failure().message().find("version 47"), std::string::npos);
  EXPECT_NE(listener.failure().message().find("version 1;"), std::string::npos);
  EXPECT_EQ(ReceiveAll(stranger.get()).size(), kHelloBytes);  // by which the other end knows, too
}

TEST_P(HandshakeTest, RefusesItsOwnWordsSentBack) {
  // A dialler hears itself.
  auto [far, own] = SocketPair();
  Handshake dialler(std::move(own), Dials());
  dialler.Advance();
  SendAll(far.get(), ReceiveAll(far.get()));
  ASSERT_EQ(dialler.Advance(), Progress::kFailed);
  EXPECT_NE(dialler.failure().message().find("repeats"), std::string::npos);
  // A dialler's proof comes back as that of the listener.
  Bytes said;
  Relayed relayed(
      Dials(), Listens(),
      [&said](Bytes& bytes, std::size_t before) {
        if (before >= kHelloBytes && said.empty()) said = bytes;
      },
      [&said](Bytes& bytes, std::size_t before) {
        if (before >= kHelloBytes) bytes = said;
      });
  EXPECT_EQ(relayed.dialler->Advance(), Progress::kFailed);
  EXPECT_EQ(relayed.dialler->failure().code(), StatusCode::kPeerFailed);
}

TEST_P(HandshakeTest, RefusesAReplay) {
  Relayed recorded(Dials(), Listens());
  ASSERT_EQ(recorded.listener->Advance(), Progress::kDone);
  ExpectListenerRefuses(recorded.from_dialler);
  // The same for a dialler, word for word.
  auto [far, own] = SocketPair();
  Handshake dialler(std::move(own), Dials());
  dialler.Advance();
  SendAll(far.get(), recorded.from_listener);
  dialler.Advance();
  { const UniqueFd closed = std::move(far); }
  for (int i = 0; i < 3; ++i) dialler.Advance();
  EXPECT_EQ(dialler.Advance(), Progress::kFailed);
  EXPECT_FALSE(dialler.is_member());
}

TEST_P(HandshakeTest, RefusesATranscriptWithOneBitChanged) {
  const Relayed whole(Dials(), Listens());
  ASSERT_EQ(whole.dialler->peer().rank, 1);
  int ignored = 0;
  for (const bool of_dialler : {true, false}) {
    const std::size_t length = of_dialler ? whole.from_dialler.size() : whole.from_listener.size();
    for (std::size_t place = 0; place < length; ++place) {
      const Relayed::Change change = [place](Bytes& bytes, std::size_t before) {
        if (place >= before && place - before < bytes.size()) {
          bytes[place - before] ^= std::byte{static_cast<unsigned char>(1u << place % 8)};
        }
      };
      Relayed relayed(Dials(), Listens(), of_dialler ? change : nullptr,
                      of_dialler ? nullptr : change);
      // Who hears the wrong bit refuses; a listener whose last word is changed has already ended.
      Handshake& hears = of_dialler ? *relayed.listener : *relayed.dialler;
      if (hears.Advance() == Progress::kFailed) continue;
      ASSERT_EQ(GetParam(), Protection::kTls) << of_dialler << ' ' << place;
      ++ignored;
      EXPECT_EQ(hears.peer().rank, of_dialler ? 3 : 1);
      EXPECT_EQ(hears.peer().generation, 17u);
    }
  }
  // The two bytes of a version before each of the first messages, which TLS 1.3 gives no meaning.
  EXPECT_LE(ignored, 4);
}

TEST_P(HandshakeTest, RefusesATranscriptCutAnywhere) {
  const Relayed whole(Dials(), Listens());
  for (const bool of_dialler : {true, false}) {
    const std::size_t length = of_dialler ? whole.from_dialler.size() : whole.from_listener.size();
    for (std::size_t end = 0; end < length; ++end) {
      const Relayed::Change change = [end](Bytes& bytes, std::size_t before) {
        bytes.resize(before >= end ? 0 : std::min(bytes.size(), end - before));
      };
      Relayed relayed(Dials(), Listens(), of_dialler ? change : nullptr,
                      of_dialler ? nullptr : change);
      Handshake& hears = of_dialler ? *relayed.listener : *relayed.dialler;
      ASSERT_EQ(hears.Advance(), Progress::kFailed) << of_dialler << ' ' << end;
      ASSERT_EQ(hears.failure().code(), StatusCode::kPeerFailed) << of_dialler << ' ' << end;
    }
  }
}

TEST_P(HandshakeTest, RefusesOtherProtocolsAtTheirFirstBytes) {
  const Bytes client_hello =
      ToBytes(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11));
  for (const Bytes& bytes : {ToBytes("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), client_hello,
                             ToBytes("SSH-2.0-OpenSSH_9.2\r\n"), ToBytes("h0")}) {
    auto [stranger, own] = SocketPair();
    Handshake listener(std::move(own), Listens());
    SendAll(stranger.get(), bytes);
    ASSERT_EQ(listener.Advance(), Progress::kFailed);  // although the other end waits for an answer
    EXPECT_NE(listener.failure().message().find("another protocol"), std::string::npos);
    EXPECT_TRUE(ReceiveAll(stranger.get()).empty()) << "a stranger was answered";
  }
}

TEST_P(HandshakeTest, RefusesRandomBytesWithOrWithoutAHelloBeforeThem) {
  const HelloBytes hello = *EncodeHello(
      {.protection = GetParam(), .job_id = "job-7", .nonce = *RandomNonce()}, TestJob().key);
  for (unsigned seed = 0; seed < 200; ++seed) {
    Bytes bytes = RandomBytes(1 + seed * 7, seed);
    ExpectListenerRefuses(bytes);
    bytes.insert(bytes.begin(), hello.begin(), hello.end());
    ExpectListenerRefuses(bytes);
  }
}

TEST_P(HandshakeTest, AllocatesNothingForAGigabyteThatIsAnnounced) {
  const HelloBytes hello = *EncodeHello(
      {.protection = GetParam(), .job_id = "job-7", .nonce = *RandomNonce()}, TestJob().key);
  Bytes bytes(hello.begin(), hello.end());
  const Bytes length = ToBytes(std::string("\x16\x03\x03\x3f\xff\x01\xff\xff\xff\0\0\0\x40", 13));
  bytes.insert(bytes.end(), length.begin(), length.end());
  bytes.resize(bytes.size() + 60, std::byte{0x40});
  ExpectListenerRefuses(bytes);  // once, so that whatever is made once is there
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  ExpectListenerRefuses(bytes);
  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 4096) << "KiB";
}

TEST_P(HandshakeTest, EndsByTheDeadlineHoweverSlowlySomebodySpeaks) {
  const HelloBytes hello = *EncodeHello(
      {.protection = GetParam(), .job_id = "job-7", .nonce = *RandomNonce()}, TestJob().key);
  for (const std::size_t bytes_sent : {0u, 1u, 64u}) {
    auto [stranger, own] = SocketPair();
    SendAll(stranger.get(), {hello.begin(), hello.begin() + static_cast<int>(bytes_sent)});
    const TimePoint deadline = In(std::chrono::milliseconds(30));
    const auto channel = Handshake::Run(std::move(own), Listens(), deadline);
    ASSERT_FALSE(channel);
    EXPECT_EQ(channel.error().code(), StatusCode::kTimeout);
    EXPECT_GE(SteadyClock::Instance().Now(), deadline);
  }
  // A byte now and then, each of which wakes it, does not put the end off.
  auto [stranger, own] = SocketPair();
  Result<Channel> channel = Fail(Status());
  std::jthread listener([&, &fd = own] {
    channel = Handshake::Run(std::move(fd), Listens(), In(std::chrono::milliseconds(200)));
  });
  for (const std::byte byte : hello) {
    std::byte answer{};
    if (!SendSome(stranger.get(), std::span<const std::byte>(&byte, 1))) break;
    if (AwaitSocket(stranger.get(), POLLIN, In(std::chrono::milliseconds(5)))) {
      if (!ReceiveSome(stranger.get(), std::span(&answer, 1))) break;
    }
  }
  listener.join();
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().code(), StatusCode::kTimeout) << channel.error().message();
}

TEST(Handshake, RefusesAJobIdThatDoesNotFit) {
  for (const std::string& id : {std::string(), std::string(65, 'x')}) {
    Handshake::Options options = DiallerOptions(Protection::kTls);
    options.credentials.job_id = id;
    Handshake dialler(SocketPair().first, options);
    ASSERT_EQ(dialler.Advance(), Progress::kFailed);
    EXPECT_EQ(dialler.failure().code(), StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace hora
