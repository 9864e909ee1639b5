// What a rank makes of what a store says, or does not.
#include "hora/net/store_client.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <functional>
#include <string>
#include <thread>

#include "hora/base/format.h"
#include "hora/net/handshake.h"
#include "hora/net/socket_io.h"
#include "hora/net/store_stream.h"
#include "hora/net/tcp_socket.h"
#include "net/store_job.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Serves one member, with a store that does what the test says.
std::jthread ServeOne(TcpListener& listener, const std::function<void(StoreStream&)>& serve) {
  return std::jthread([&listener, serve] {
    ASSERT_TRUE(AwaitSocket(listener.fd(), POLLIN, In(seconds(20))));
    auto socket = listener.Accept();
    ASSERT_TRUE(socket && socket->valid());
    auto channel = Handshake::Run(std::move(*socket),
                                  {.role = Handshake::Role::kListener,
                                   .protection = Protection::kMac,
                                   .credentials = SampleCredentials(),
                                   .mine = {}},
                                  In(seconds(20)));
    ASSERT_TRUE(channel) << channel.error().ToString();
    StoreStream stream(std::move(*channel), kMaxStoreRequestBytes);
    serve(stream);
  });
}

GetRequest HearGet(StoreStream& stream) {
  for (;;) {
    auto heard = stream.Receive();
    EXPECT_TRUE(heard) << heard.error().ToString();
    if (!heard) return {};
    if (heard->has_value()) return std::get<GetRequest>(**heard);
    EXPECT_TRUE(AwaitSocket(stream.fd(), POLLIN, In(seconds(20))));
  }
}

// The store waits for as long as it is asked to, and its answer is under way for a while.
TEST(StoreClient, ALateRefusalIsStillHeard) {
  auto listener = TcpListener::Open(Loopback());
  ASSERT_TRUE(listener) << listener.error().ToString();
  const std::jthread server = ServeOne(*listener, [](StoreStream& stream) {
    const GetRequest asked = HearGet(stream);
    const TimePoint late = In(milliseconds(asked.patience_ms + 100));
    EXPECT_FALSE(AwaitSocket(stream.fd(), POLLIN, late)) << "it has not waited for the answer";
    const auto answer = MakeStoreFrame(Refusal{Status(StatusCode::kTimeout, "nobody set it")});
    EXPECT_TRUE(stream.Send(*answer).ok());
  });
  const auto store = ConnectToStore(listener->address(), 0, SampleCredentials(), Protection::kMac,
                                    In(seconds(20)));
  ASSERT_TRUE(store) << store.error().ToString();
  const auto value = (*store)->Get("key", In(milliseconds(50)));
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().message(), "nobody set it");
}

// The thread that serves ends when this rank has given up.
TEST(StoreClient, ASilentStoreIsGivenUp) {
  auto listener = TcpListener::Open(Loopback());
  ASSERT_TRUE(listener) << listener.error().ToString();
  const std::jthread server = ServeOne(*listener, [](StoreStream& stream) {
    HearGet(stream);
    EXPECT_TRUE(AwaitSocket(stream.fd(), POLLIN, In(seconds(20))));
  });
  const auto store = ConnectToStore(listener->address(), 0, SampleCredentials(), Protection::kMac,
                                    In(seconds(20)));
  ASSERT_TRUE(store) << store.error().ToString();
  const auto value = (*store)->Get("key", In(milliseconds(50)));
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().code(), StatusCode::kTimeout);
  EXPECT_NE(value.error().message().find("no answer in time"), std::string::npos);
}

// Waiting is right, as launchers are started by hand; silence is not.
TEST(StoreClient, SaysOnceThatItWaitsForAStoreThatIsNotThere) {
  const UniqueFd holder(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in name{};
  socklen_t bytes = sizeof(name);
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const any_port = reinterpret_cast<sockaddr*>(&name);
  ASSERT_EQ(bind(holder.get(), any_port, bytes), 0);  // so nobody else takes the port
  ASSERT_EQ(getsockname(holder.get(), any_port, &bytes), 0);
  const auto address = SocketAddress::From(any_port, bytes);
  ASSERT_TRUE(address) << address.error().ToString();

  ::testing::internal::CaptureStderr();
  const auto store =
      ConnectToStore(*address, 3, SampleCredentials(), Protection::kMac, In(milliseconds(2600)));
  const std::string said = ::testing::internal::GetCapturedStderr();
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code(), StatusCode::kPeerFailed);
  const std::string line = fmt::format(
      "hora[rank 3] warning: rank 3 still waits for the job's store: {} refuses connections: ",
      address->ToString());
  EXPECT_TRUE(said.starts_with(line)) << said;
  EXPECT_NE(said.find("; gives up in 1 s. Check that"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

}  // namespace
}  // namespace hora
