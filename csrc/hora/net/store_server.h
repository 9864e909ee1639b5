// The store's memory, in the launcher or in rank 0.
#pragma once

#include <memory>

#include "hora/base/result.h"
#include "hora/net/channel.h"
#include "hora/net/job_key.h"
#include "hora/net/socket_address.h"

namespace hora {

// Owns a listener and one thread. Strangers (no key proved yet) have kHandshakePatience, are few,
// and neither delay nor end anybody's wait. Keys and values are bounded in size and number.
class StoreServer {
 public:
  // Listens on `address` (port 0: any). kResource as TcpListener::Open.
  static Result<std::unique_ptr<StoreServer>> Start(const SocketAddress& address,
                                                    const JobCredentials& credentials,
                                                    Protection protection = Protection::kTls);
  ~StoreServer();  // whoever waits is told that the store is gone

  const SocketAddress& address() const;

  // In the child of a fork: closes what this process shares with its parent. Async-signal-safe; the
  // object must not be used afterwards, not even destroyed.
  void CloseInForkedChild() noexcept;

 private:
  class Loop;
  explicit StoreServer(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace hora
