#include "hora/net/network_interface.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace hora {
namespace {

const SocketAddress kLoopback = *SocketAddress::Parse("127.0.0.1:0");

TEST(NetworkInterface, ListsTheLoopback) {
  const auto interfaces = NetworkInterfaces();
  ASSERT_TRUE(interfaces);
  const auto loopback =
      std::find_if(interfaces->begin(), interfaces->end(),
                   [](const NetworkInterface& each) { return each.address == kLoopback; });
  ASSERT_NE(loopback, interfaces->end());
  EXPECT_EQ(loopback->prefix_length, 8);
  EXPECT_TRUE(loopback->is_up);
}

TEST(NetworkInterface, ChoosesByNameOrNetworkTheFirstThatExists) {
  for (const std::vector<std::string>& wanted : std::vector<std::vector<std::string>>{
           {"lo"}, {"127.0.0.0/8"}, {"127.0.0.1"}, {"no-such", "203.0.113.0/24", "lo"}}) {
    const auto address = ChooseAddress(wanted, kLoopback);
    ASSERT_TRUE(address) << address.error().message();
    EXPECT_EQ(*address, kLoopback);
  }
}

TEST(NetworkInterface, NamesWhatWasWantedAndWhatThereIs) {
  for (const char* const wanted : {"no-such", "203.0.113.0/24", "127.0.0.0/33", "127.0.0.0/x",
                                   "127.0.0.0/-1", "fd00::/129", "/", ""}) {
    const auto address = ChooseAddress({wanted}, kLoopback);
    ASSERT_FALSE(address) << wanted;
    EXPECT_EQ(address.error().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(address.error().message().find(wanted), std::string::npos);
    EXPECT_NE(address.error().message().find("127.0.0.1/8"), std::string::npos);
  }
}

TEST(NetworkInterface, WithoutWishesItIsTheWayTowardsSomebody) {
  const auto towards = ChooseAddress({}, *SocketAddress::Parse("127.0.0.9:4000"));
  ASSERT_TRUE(towards);
  EXPECT_TRUE(towards->IsLoopback());
  EXPECT_EQ(towards->port(), 0);
  EXPECT_FALSE(ChooseAddress({}, SocketAddress()));
}

TEST(NetworkInterface, ALinkLocalAddressIsOnTheListenersInterfaceWhateverItIsCalledElsewhere) {
  const SocketAddress here = SocketAddress::Parse("[fe80::1%lo]:4").value();
  EXPECT_EQ(SayToOthers(here), "[fe80::1]:4");
  const SocketAddress theirs = SocketAddress::Parse("[fe80::2]:5").value();
  EXPECT_EQ(OnLinkOf(here, theirs).ToString(), "[fe80::2%lo]:5");
  const SocketAddress global = SocketAddress::Parse("[fd00::2]:5").value();
  EXPECT_EQ(OnLinkOf(here, global), global);
  EXPECT_EQ(OnLinkOf(global, theirs), theirs);
  EXPECT_EQ(SayToOthers(SocketAddress::Parse("10.0.0.1:4").value()), "10.0.0.1:4");
}

TEST(NetworkInterface, AnyNetworkIsAnAddressAndNoWildcard) {
  const auto address = ChooseAddress({"0.0.0.0/0"}, kLoopback);
  ASSERT_TRUE(address);
  EXPECT_FALSE(address->IsWildcard());
}

}  // namespace
}  // namespace hora
