#include "hora/net/tcp_socket.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <thread>

#include "gtest/gtest.h"

#include "hora/base/format.h"
#include "hora/net/socket_io.h"

namespace hora {
namespace {

// An address of this process alone: ports of it that were given back stay free.
const SocketAddress kAnyLoopback = *SocketAddress::Parse(fmt::format(
    "127.{}.{}.{}:0", 1 + (getpid() >> 16) % 254, (getpid() >> 8) % 256, getpid() % 256));

TimePoint In(std::chrono::milliseconds time) { return SteadyClock::Instance().Now() + time; }

void ExpectOptions(int fd) {
  EXPECT_TRUE((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
  EXPECT_TRUE((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  int without_delay = 0;
  socklen_t bytes = sizeof(without_delay);
  getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &without_delay, &bytes);
  EXPECT_NE(without_delay, 0);
}

TEST(TcpSocket, ConnectsBothEndsWithTheRightOptions) {
  for (const char* const where : {"127.0.0.1:0", "[::1]:0"}) {
    auto listener = TcpListener::Open(*SocketAddress::Parse(where));
    if (!listener && std::string_view(where).front() == '[') continue;  // a host without IPv6
    ASSERT_TRUE(listener) << listener.error().message();
    EXPECT_NE(listener->address().port(), 0);
    auto nobody = listener->Accept();
    ASSERT_TRUE(nobody);
    EXPECT_FALSE(nobody->valid());

    const auto dialled = Dial(listener->address(), In(std::chrono::seconds(5)));
    ASSERT_TRUE(dialled) << dialled.error().message();
    ASSERT_TRUE(AwaitSocket(listener->fd(), POLLIN, In(std::chrono::seconds(5))));
    const auto accepted = listener->Accept();
    ASSERT_TRUE(accepted && accepted->valid());
    ExpectOptions(dialled->get());
    ExpectOptions(accepted->get());
    ExpectOptions(listener->fd());
    EXPECT_EQ(PeerName(dialled->get()), listener->address().ToString());
  }
  EXPECT_EQ(PeerName(-1), "?");
}

TEST(TcpSocket, NeverListensOnAWildcard) {
  for (const char* const where : {"0.0.0.0:0", "[::]:0"}) {
    const auto listener = TcpListener::Open(*SocketAddress::Parse(where));
    ASSERT_FALSE(listener);
    EXPECT_EQ(listener.error().code(), StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(TcpListener::Open(SocketAddress()));
}

TEST(TcpSocket, NamesTheHolderOfATakenPort) {
  const auto first = TcpListener::Open(kAnyLoopback);
  ASSERT_TRUE(first);
  const auto second = TcpListener::Open(first->address());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), StatusCode::kResource);
  EXPECT_NE(second.error().message().find(first->address().ToString()), std::string::npos);
  EXPECT_NE(second.error().message().find("process " + std::to_string(getpid())), std::string::npos)
      << second.error().message();
}

TEST(TcpSocket, APortThatIsGivenBackCanBeHadAgainAtOnce) {
  SocketAddress address;
  {
    auto listener = TcpListener::Open(kAnyLoopback);
    ASSERT_TRUE(listener);
    address = listener->address();
    const auto dialled = Dial(address, In(std::chrono::seconds(5)));
    ASSERT_TRUE(dialled);
    ASSERT_TRUE(AwaitSocket(listener->fd(), POLLIN, In(std::chrono::seconds(5))));
    ASSERT_TRUE(listener->Accept());  // and closes it first, which leaves its end in TIME_WAIT
  }
  EXPECT_TRUE(TcpListener::Open(address));
}

TEST(TcpSocket, ImpatientDiallersHearThatNobodyListens) {
  const SocketAddress gone = TcpListener::Open(kAnyLoopback)->address();
  const auto refused = Dial(gone, In(std::chrono::seconds(5)), /*patient=*/false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), StatusCode::kPeerFailed);
  EXPECT_NE(refused.error().message().find(gone.ToString()), std::string::npos);
  EXPECT_NE(refused.error().message().find("refuses"), std::string::npos);
}

TEST(TcpSocket, PatientDiallersWaitForTheListenerUntilTheDeadline) {
  const SocketAddress address = TcpListener::Open(kAnyLoopback)->address();
  const TimePoint deadline = In(std::chrono::milliseconds(50));
  const auto refused = Dial(address, deadline);
  ASSERT_FALSE(refused);
  EXPECT_GE(SteadyClock::Instance().Now(), deadline);
  EXPECT_NE(refused.error().message().find("refuses"), std::string::npos);

  Result<UniqueFd> dialled;
  std::jthread dialler([&] { dialled = Dial(address, In(std::chrono::seconds(20))); });
  const auto listener = TcpListener::Open(address);
  dialler.join();
  ASSERT_TRUE(listener) << listener.error().message();
  EXPECT_TRUE(dialled) << dialled.error().message();
}

TEST(TcpSocket, DialsNothingThatIsNowhere) {
  EXPECT_FALSE(Dial(SocketAddress(), In(std::chrono::seconds(5))));
  EXPECT_FALSE(Dial(kAnyLoopback, In(std::chrono::seconds(5))));
}

TEST(SocketIo, ToldOfAnEndAndNeverSignalled) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd mine(ends[0]);
  std::byte byte{7};
  EXPECT_EQ(*ReceiveSome(mine.get(), std::span(&byte, 1)), 0u);
  EXPECT_FALSE(AwaitSocket(mine.get(), POLLIN, In(std::chrono::milliseconds(1))));
  close(ends[1]);
  EXPECT_EQ(ReceiveSome(mine.get(), std::span(&byte, 1)).error().code(), StatusCode::kPeerFailed);
  EXPECT_EQ(SendSome(mine.get(), std::span<const std::byte>(&byte, 1)).error().code(),
            StatusCode::kPeerFailed);
}

}  // namespace
}  // namespace hora
