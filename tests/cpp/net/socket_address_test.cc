#include "hora/net/socket_address.h"

#include <sys/un.h>

#include "gtest/gtest.h"

namespace hora {
namespace {

TEST(SocketAddress, ReadsAndWritesTheSameText) {
  for (const char* const text : {"10.0.0.1:4000", "127.0.0.1:0", "255.255.255.255:65535",
                                 "[::1]:4000", "[fd00::1:2]:1", "[::]:0", "[fe80::1%lo]:4000"}) {
    const auto address = SocketAddress::Parse(text);
    ASSERT_TRUE(address) << address.error().message();
    EXPECT_EQ(address->ToString(), text);
    EXPECT_TRUE(address->IsSet());
  }
}

TEST(SocketAddress, RefusesWhatIsNoNumericAddress) {
  for (const std::string text : {"",
                                 ":",
                                 "10.0.0.1",
                                 "10.0.0.1:",
                                 "10.0.0.1:65536",
                                 "10.0.0.1:-1",
                                 "10.0.0.1:+1",
                                 "10.0.0.1:4000 ",
                                 " 10.0.0.1:4000",
                                 "10.1:4000",
                                 "010.0.0.1:1",
                                 "host:4000",
                                 "::1:4000",
                                 "[::1]4000",
                                 "[]:4000",
                                 "[:4000",
                                 "[::1:4000",
                                 "[10.0.0.1]:4000",
                                 "[fe80::1%]:4000",
                                 "[fe80::1%no-such-interface]:4000",
                                 "[::1]]:4000"}) {
    const auto address = SocketAddress::Parse(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(address.error().message().find("'" + text + "'"), std::string::npos);
  }
  EXPECT_FALSE(SocketAddress::Parse(std::string(100'000, '1')));
  EXPECT_FALSE(SocketAddress::Parse(std::string_view("10.0.0.1\0:4000", 14)));
}

TEST(SocketAddress, KnowsItsKind) {
  EXPECT_TRUE(SocketAddress::Parse("127.1.2.3:1")->IsLoopback());
  EXPECT_TRUE(SocketAddress::Parse("[::1]:1")->IsLoopback());
  EXPECT_FALSE(SocketAddress::Parse("10.0.0.1:1")->IsLoopback());
  EXPECT_TRUE(SocketAddress::Parse("0.0.0.0:1")->IsWildcard());
  EXPECT_TRUE(SocketAddress::Parse("[::]:1")->IsWildcard());
  EXPECT_FALSE(SocketAddress::Parse("[::1]:1")->IsWildcard());
  EXPECT_FALSE(SocketAddress().IsSet());
  EXPECT_FALSE(SocketAddress().IsLoopback());
  EXPECT_EQ(SocketAddress().ToString(), "(no address)");
}

TEST(SocketAddress, ChangesItsPortOnly) {
  const SocketAddress address = *SocketAddress::Parse("[fd00::1]:1");
  EXPECT_EQ(address.WithPort(4000).ToString(), "[fd00::1]:4000");
  EXPECT_EQ(address.port(), 1);
  EXPECT_EQ(address.HostToString(), "fd00::1");
  EXPECT_NE(address, address.WithPort(2));
}

TEST(SocketAddress, ComesFromTheKernelsStructure) {
  const SocketAddress ipv4 = *SocketAddress::Parse("10.0.0.1:4000");
  EXPECT_EQ(*SocketAddress::From(ipv4.data(), ipv4.bytes()), ipv4);
  EXPECT_FALSE(SocketAddress::From(ipv4.data(), ipv4.bytes() - 1));
  sockaddr_un other{};
  other.sun_family = AF_UNIX;
  const auto refused =
      SocketAddress::From(reinterpret_cast<const sockaddr*>(&other), sizeof(other));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
}

TEST(SocketAddress, ResolvesNumbersAndNames) {
  const auto number = SocketAddress::Resolve("10.1.2.3", 7);
  ASSERT_TRUE(number);
  ASSERT_EQ(number->size(), 1u);
  EXPECT_EQ(number->front().ToString(), "10.1.2.3:7");
  const auto name = SocketAddress::Resolve("localhost", 7);
  ASSERT_TRUE(name);
  EXPECT_TRUE(name->front().IsLoopback());
  const auto wrong = SocketAddress::Resolve("no such host", 7);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.error().message().find("'no such host'"), std::string::npos);
}

}  // namespace
}  // namespace hora
