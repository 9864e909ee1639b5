#include "hora/net/channel.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "gtest/gtest.h"

#include "hora/net/socket_io.h"
#include "net/connection.h"

namespace hora {
namespace {

constexpr std::chrono::seconds kPatience{60};

// Writes all of it, waiting for the socket where it is full.
Status WriteAll(Channel& channel, std::span<const std::byte> bytes) {
  const TimePoint deadline = In(kPatience);
  for (;;) {
    const Result<std::size_t> taken = channel.Write(bytes);
    if (!taken) return taken.error();
    bytes = bytes.subspan(*taken);
    const Result<bool> flushed = channel.Flush();
    if (!flushed) return flushed.error();
    if (bytes.empty() && *flushed) return Status::Ok();
    if (*taken == 0 && !AwaitSocket(channel.fd(), POLLOUT, deadline)) {
      return Status(StatusCode::kTimeout, "nobody reads");
    }
  }
}

Status ReadAll(Channel& channel, std::span<std::byte> into) {
  const TimePoint deadline = In(kPatience);
  while (!into.empty()) {
    const Result<std::size_t> got = channel.Read(into);
    if (!got) return got.error();
    into = into.subspan(*got);
    if (*got == 0 && !channel.HasUnread() && !AwaitSocket(channel.fd(), POLLIN, deadline)) {
      return Status(StatusCode::kTimeout, "nobody writes");
    }
  }
  return Status::Ok();
}

class ChannelTest : public testing::TestWithParam<Protection> {
 protected:
  std::pair<Channel, Channel> Connect() { return ConnectChannels(TcpPair(), GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Protections, ChannelTest, kEveryProtection, NameOfProtection);

TEST_P(ChannelTest, CarriesEverySize) {
  for (const bool tcp : {true, false}) {
    auto [a, b] = ConnectChannels(tcp ? TcpPair() : SocketPair(), GetParam());
    EXPECT_EQ(a.protection(), GetParam());
    for (const std::size_t size : {1u, 2u, 15u, 16u, 17u, 1000u, 16'383u, 16'384u, 16'385u, 65'536u,
                                   262'143u, 262'145u, 1u << 20, 64u << 20}) {
      const std::vector<std::byte> sent = RandomBytes(size);
      std::vector<std::byte> got(size);
      Status written;
      {
        std::jthread writer([&, &from = a] { written = WriteAll(from, sent); });
        const Status read = ReadAll(b, got);
        ASSERT_TRUE(read.ok()) << read.message();
      }
      ASSERT_TRUE(written.ok()) << written.message();
      ASSERT_EQ(std::memcmp(sent.data(), got.data(), size), 0) << size;
    }
    std::byte none{};
    EXPECT_EQ(b.Read(std::span(&none, 1)), 0u);
    EXPECT_FALSE(b.HasUnread());
  }
}

TEST_P(ChannelTest, CarriesBothDirectionsAtOnce) {
  auto [a, b] = Connect();
  const std::vector<std::byte> one = RandomBytes(8u << 20, 1);
  const std::vector<std::byte> other = RandomBytes(8u << 20, 2);
  std::vector<std::byte> at_a(other.size());
  std::vector<std::byte> at_b(one.size());
  std::vector<Status> ends(4);
  {
    std::jthread writes_a([&, &from = a] { ends[0] = WriteAll(from, one); });
    std::jthread writes_b([&, &from = b] { ends[1] = WriteAll(from, other); });
    std::jthread reads_a([&, &to = a] { ends[2] = ReadAll(to, at_a); });
    std::jthread reads_b([&, &to = b] { ends[3] = ReadAll(to, at_b); });
  }
  for (const Status& status : ends) EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(at_a == other && at_b == one);
}

// Many odd sizes on both sides, one byte at a time among them.
TEST_P(ChannelTest, IsAStreamWhateverThePieces) {
  auto [a, b] = Connect();
  std::mt19937 random(5);
  const std::vector<std::byte> sent = RandomBytes(600'000);
  std::vector<std::byte> got(sent.size());
  std::size_t written = 0;
  std::size_t read = 0;
  const TimePoint deadline = In(kPatience);
  while (read < sent.size() && SteadyClock::Instance().Now() < deadline) {
    const auto ask = [&random](std::size_t left) {
      const std::size_t limit = random() % 3 == 0 ? 3 : 40'000;
      return std::min<std::size_t>(left, 1 + random() % limit);
    };
    const auto taken = a.Write(std::span(sent).subspan(written, ask(sent.size() - written)));
    ASSERT_TRUE(taken && a.Flush());
    written += *taken;
    const auto some = b.Read(std::span(got).subspan(read, ask(sent.size() - read)));
    ASSERT_TRUE(some);
    read += *some;
  }
  ASSERT_EQ(read, sent.size());
  EXPECT_EQ(got, sent);
}

TEST_P(ChannelTest, TakesWhatFitsAndGoesOnWhenThereIsRoom) {
  auto [a, b] = ConnectChannels(SocketPair(), GetParam());
  const std::vector<std::byte> sent = RandomBytes(4u << 20);
  std::size_t taken = 0;
  for (Result<std::size_t> now = 1; *now > 0;) {
    now = a.Write(std::span(sent).subspan(taken));
    ASSERT_TRUE(now);
    taken += *now;
  }
  EXPECT_LT(taken, sent.size());
  std::vector<std::byte> got(sent.size());
  std::size_t read = 0;
  const TimePoint deadline = In(kPatience);
  while (read < got.size() && SteadyClock::Instance().Now() < deadline) {
    const auto some = b.Read(std::span(got).subspan(read));
    ASSERT_TRUE(some);
    read += *some;
    const auto now = a.Write(std::span(sent).subspan(taken));
    ASSERT_TRUE(now && a.Flush());
    taken += *now;
  }
  EXPECT_EQ(got, sent);
}

TEST_P(ChannelTest, SaysWhatItHoldsUnread) {
  auto [a, b] = Connect();
  const std::vector<std::byte> sent = RandomBytes(3000);
  ASSERT_TRUE(WriteAll(a, sent).ok());
  std::vector<std::byte> got(sent.size());
  std::size_t read = 0;
  while (read < sent.size()) {  // either the socket or the channel has more, until the end
    ASSERT_TRUE(b.HasUnread() || AwaitSocket(b.fd(), POLLIN, In(kPatience)));
    const auto some = b.Read(std::span(got).subspan(read, std::min<std::size_t>(7, 3000 - read)));
    ASSERT_TRUE(some);
    read += *some;
  }
  EXPECT_EQ(got, sent);
  EXPECT_EQ(*b.Read(std::span(got).first(1)), 0u);
  EXPECT_FALSE(b.HasUnread());
}

TEST_P(ChannelTest, AbortWakesBothEndsAndIsFinal) {
  auto [a, b] = Connect();
  ASSERT_TRUE(WriteAll(b, RandomBytes(100)).ok());
  bool woken = false;
  {
    const Channel& polled = a;
    std::jthread poller([&] {
      pollfd waiting{polled.fd(), POLLRDHUP, 0};
      woken = poll(&waiting, 1, 60'000) > 0;
    });
    a.Abort();
  }
  EXPECT_TRUE(woken);
  std::byte byte{};
  EXPECT_EQ(a.Read(std::span(&byte, 1)).error().code(), StatusCode::kPeerFailed);
  EXPECT_EQ(a.Write(std::span(&byte, 1)).error().code(), StatusCode::kPeerFailed);
  EXPECT_EQ(a.Flush().error().code(), StatusCode::kPeerFailed);
  EXPECT_TRUE(AwaitSocket(b.fd(), POLLIN, In(kPatience)));
  EXPECT_EQ(b.Read(std::span(&byte, 1)).error().code(), StatusCode::kPeerFailed);
}

TEST_P(ChannelTest, ADeathIsAPeerFailureThatNamesThePeer) {
  auto ends = Connect();
  Channel& a = ends.first;
  const std::string name = PeerName(a.fd());
  const std::vector<std::byte> last_words = RandomBytes(40'000);
  ASSERT_TRUE(WriteAll(ends.second, last_words).ok());
  { const Channel dies = std::move(ends.second); }
  std::vector<std::byte> got(last_words.size());
  ASSERT_TRUE(ReadAll(a, got).ok());
  EXPECT_EQ(got, last_words);
  std::byte byte{};
  const auto read = a.Read(std::span(&byte, 1));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), StatusCode::kPeerFailed);
  EXPECT_NE(read.error().message().find(name), std::string::npos) << read.error().message();
  const std::vector<std::byte> more = RandomBytes(8u << 20);
  EXPECT_EQ(WriteAll(a, more).code(), StatusCode::kPeerFailed);
}

// A connection in the middle of which somebody reads and changes bytes.
struct Tapped {
  Channel sender;
  Channel receiver;
  UniqueFd from_sender;
  UniqueFd to_receiver;

  explicit Tapped(Protection protection) : Tapped(Make(protection)) {}

  std::vector<std::byte> Capture() {
    std::vector<std::byte> bytes(1u << 20);
    const auto got = ReceiveSome(from_sender.get(), std::span(bytes));
    bytes.resize(got.value_or(0));
    return bytes;
  }
  void Deliver(std::span<const std::byte> bytes) {
    EXPECT_EQ(SendSome(to_receiver.get(), bytes).value_or(0), bytes.size());
  }

 private:
  Tapped(Channel s, Channel r, UniqueFd from, UniqueFd to)
      : sender(std::move(s)),
        receiver(std::move(r)),
        from_sender(std::move(from)),
        to_receiver(std::move(to)) {}

  static void Relay(int from, int to) {
    std::array<std::byte, 4096> bytes;
    const auto got = ReceiveSome(from, std::span(bytes));
    if (got && *got > 0) {
      EXPECT_TRUE(SendSome(to, std::span<const std::byte>(bytes).first(*got)));
    }
  }

  static Tapped Make(Protection protection) {
    auto [a, near_a] = SocketPair();
    auto [near_b, b] = SocketPair();
    Handshake dialler(std::move(a), DiallerOptions(protection));
    Handshake listener(std::move(b), ListenerOptions(protection));
    for (int i = 0; i < 20; ++i) {
      dialler.Advance();
      Relay(near_a.get(), near_b.get());
      listener.Advance();
      Relay(near_b.get(), near_a.get());
    }
    return Tapped(dialler.Take(), listener.Take(), std::move(near_a), std::move(near_b));
  }
};

TEST_P(ChannelTest, ReportsAChangeOfAnyByte) {
  const std::vector<std::byte> sent = RandomBytes(50);
  for (std::size_t place = 0;; ++place) {
    Tapped tapped(GetParam());
    ASSERT_EQ(tapped.sender.Write(sent), sent.size());
    ASSERT_TRUE(tapped.sender.Flush());
    std::vector<std::byte> record = tapped.Capture();
    ASSERT_GT(record.size(), sent.size());
    if (place == record.size()) break;
    record[place] ^= std::byte{0x10};
    tapped.Deliver(record);
    // Somebody waits for the rest of a record whose length is said to be longer: nothing comes.
    tapped.to_receiver = UniqueFd();
    std::vector<std::byte> got(sent.size());
    const Status read = ReadAll(tapped.receiver, got);
    EXPECT_EQ(read.code(), StatusCode::kPeerFailed) << place;
    if (GetParam() != Protection::kChecksum) {
      EXPECT_EQ(got, std::vector<std::byte>(sent.size())) << "delivered before it was proved";
    }
    std::byte byte{};
    EXPECT_FALSE(tapped.receiver.Read(std::span(&byte, 1))) << "an error is final";
  }
}

TEST_P(ChannelTest, ReportsRecordsThatAreRepeatedOrLeftOut) {
  for (const bool repeat : {true, false}) {
    Tapped tapped(GetParam());
    const std::vector<std::byte> sent = RandomBytes(50);
    ASSERT_TRUE(WriteAll(tapped.sender, sent).ok());
    const std::vector<std::byte> first = tapped.Capture();
    ASSERT_TRUE(WriteAll(tapped.sender, sent).ok());
    const std::vector<std::byte> second = tapped.Capture();
    if (repeat) tapped.Deliver(first);
    tapped.Deliver(repeat ? first : second);
    std::vector<std::byte> got(2 * sent.size());
    EXPECT_EQ(ReadAll(tapped.receiver, got).code(), StatusCode::kPeerFailed);
  }
}

TEST_P(ChannelTest, HidesWhatItCarriesOnlyUnderTls) {
  Tapped tapped(GetParam());
  const std::vector<std::byte> sent = RandomBytes(64);
  ASSERT_TRUE(WriteAll(tapped.sender, sent).ok());
  const std::vector<std::byte> wire = tapped.Capture();
  const bool readable =
      std::search(wire.begin(), wire.end(), sent.begin(), sent.end()) != wire.end();
  EXPECT_EQ(readable, GetParam() != Protection::kTls);
}

// A length of a gigabyte must not be believed, whatever comes after it.
TEST_P(ChannelTest, RefusesImpossibleLengths) {
  Tapped tapped(GetParam());
  std::vector<std::byte> wire(64, std::byte{0});
  wire[3] = std::byte{0x40};
  tapped.Deliver(wire);
  std::vector<std::byte> got(16);
  const auto read = tapped.receiver.Read(got);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), StatusCode::kPeerFailed);
}

}  // namespace
}  // namespace hora
