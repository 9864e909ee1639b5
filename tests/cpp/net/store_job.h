#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "hora/base/clock.h"
#include "hora/net/job_key.h"
#include "hora/net/store_client.h"
#include "hora/net/store_server.h"

namespace hora {

inline TimePoint In(Duration duration) { return SteadyClock::Instance().Now() + duration; }

inline SocketAddress Loopback() { return *SocketAddress::Parse("127.0.0.1:0"); }

inline JobCredentials SampleCredentials(unsigned char key = 7) {
  KeyBytes secret;
  secret.fill(std::byte{key});
  return {.job_id = "a-job", .key = JobKey(secret)};
}

// Each rank on a thread of its own.
inline void OnThreads(int count, const std::function<void(int)>& body) {
  std::vector<std::jthread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(body, i);
}

// A store on the loopback interface and the ranks that know of it.
class StoreJob {
 public:
  explicit StoreJob(Protection protection = Protection::kMac) : protection_(protection) {
    Start(Loopback());
  }

  void Start(const SocketAddress& address) {
    auto server = StoreServer::Start(address, SampleCredentials(), protection_);
    ASSERT_TRUE(server) << server.error().ToString();
    server_ = std::move(*server);
    address_ = server_->address();
  }
  void Stop() { server_.reset(); }

  const SocketAddress& address() const { return address_; }
  StoreServer& server() { return *server_; }

  Result<std::unique_ptr<Store>> TryToConnect(int rank) const {
    return ConnectToStore(address_, rank, SampleCredentials(), protection_,
                          In(std::chrono::seconds(20)));
  }
  std::unique_ptr<Store> Connect(int rank) const {
    auto store = TryToConnect(rank);
    EXPECT_TRUE(store) << store.error().ToString();
    return store ? std::move(*store) : nullptr;
  }

 private:
  Protection protection_;
  SocketAddress address_;
  std::unique_ptr<StoreServer> server_;
};

}  // namespace hora
