// This process among those of other hosts: one listener, and channels to whom it is asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/net/channel.h"
#include "hora/net/handshake.h"
#include "hora/net/job_key.h"
#include "hora/net/socket_address.h"

namespace hora {

struct PeerNetworkOptions {
  int rank = 0;
  SocketAddress bind;  // the chosen interface; port 0
  JobCredentials credentials;
  Protection control = Protection::kTls;  // or kMac
  Protection data = Protection::kTls;     // or kChecksum
};

// Owns the listener and one thread, which accepts, shakes hands and watches descriptors, and never
// takes a lock that is held across a wait. Any thread may call.
class PeerNetwork {
 public:
  static Result<std::unique_ptr<PeerNetwork>> Open(PeerNetworkOptions options);
  ~PeerNetwork();

  int rank() const;
  const SocketAddress& address() const;  // others reach this process here

  // Who is where, by rank; connections of another generation are refused from now on. Once.
  void Begin(std::uint64_t generation, std::vector<SocketAddress> addresses);

  // A channel to `peer`, which makes the same call: the higher rank dials. The error names the
  // peer, its address and the reason.
  Result<Channel> Connect(int peer, const Purpose& purpose, TimePoint deadline);

  // Connect asks this about every second while it waits, and ends with the error that it gets; a
  // null function: no more. In the caller's thread; not while another one calls Connect.
  void AskWhileWaiting(std::function<Status()> lost);

  // Calls `ready`, on the thread, whenever `fd` is readable, until Unwatch returns; after a call it
  // is silent until Rearm. `ready` must not block nor call Unwatch.
  void Watch(int fd, std::function<void()> ready);
  void Rearm(int fd);
  void Unwatch(int fd);
  // Calls `tick` on the thread, about every `period`, until another call with no `tick` returns or
  // the network is gone. `tick` must not block, nor call this.
  void Tick(Duration period, std::function<void()> tick);

  // In the child of a fork: closes what this process shares with its parent. Async-signal-safe.
  void CloseInForkedChild() noexcept;

 private:
  class Loop;
  explicit PeerNetwork(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace hora
