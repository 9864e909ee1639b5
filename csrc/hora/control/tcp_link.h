// A Link over an authenticated channel, to the first rank of another host.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "hora/control/framing.h"
#include "hora/control/link.h"
#include "hora/net/channel.h"
#include "hora/net/peer_network.h"

namespace hora {

// Owns the channel. Nothing blocks. That the other end is gone is no error here: it may have left
// in order, and whether it died is the business of Heartbeats.
class TcpLink final : public Link {
 public:
  // `neighbour` is its global rank, for errors. `wake` is called on the network's thread after Arm.
  TcpLink(Channel channel, int neighbour, std::shared_ptr<PeerNetwork> network,
          std::function<void()> wake);
  ~TcpLink() override;

  Status Send(std::span<const std::byte> frame, bool urgent) override;
  bool Flush() override;
  bool Receive(std::vector<std::byte>& frame) override;
  bool NeedsAttention() const override;
  void Arm() override;
  const Status& status() const override { return status_; }

 private:
  std::size_t Take(std::span<std::byte> to);
  void Lose(const Status& cause);

  Channel channel_;
  const int neighbour_;
  const std::shared_ptr<PeerNetwork> network_;
  UnsentBytes unsent_;
  std::atomic<bool> has_unsent_{false};
  std::atomic<bool> has_unread_{false};  // the channel has bytes that the socket no longer has
  std::atomic<bool> gone_{false};        // nothing more comes or goes
  FrameReader reader_;
  Status status_;
};

}  // namespace hora
