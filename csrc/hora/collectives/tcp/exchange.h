// Bytes under way between this rank and its peers, over channels.
#pragma once

#include <poll.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/status.h"
#include "hora/collectives/tcp/peer_queue.h"
#include "hora/collectives/tcp/tcp_backend.h"
#include "hora/net/channel.h"
#include "hora/tensor/byte_stream.h"

namespace hora {

// Owns the channels. An algorithm queues what it sends and receives, and waits for what it needs
// next; every wait moves bytes of all peers, both ways at once, so that no two ranks wait for each
// other to read. Memory that is queued belongs to the exchange until it is sent or received.
//
// Waits spin, yield, then sleep in poll(2) for at most 10 ms. They fail with the status of `lost`;
// with kPeerFailed, which names the peer and its address; and with kStalled, which tells how far
// each peer has come, when no byte has moved for the patience. After a failure the channels are
// aborted, so that peers learn of it.
//
// One thread.
class TcpExchange {
 public:
  TcpExchange(std::vector<std::optional<Channel>> channels, TcpBackendOptions options);

  int rank() const { return options_.rank; }
  int size() const { return static_cast<int>(peers_.size()); }
  // The rank `distance` after this one, in the circle of all ranks.
  int After(int distance) const { return (rank() + distance + size()) % size(); }

  void Begin(std::string_view what);  // an operation; the one before is finished

  void Send(int peer, std::span<std::byte> bytes) { At(peer).out.Push(bytes); }
  void Send(int peer, ByteStream& stream, std::uint64_t offset, std::uint64_t count);
  void Receive(int peer, std::span<std::byte> bytes) { At(peer).in.Push(bytes); }
  void Receive(int peer, ByteStream& stream, std::uint64_t offset, std::uint64_t count);

  // Bytes of this operation: what has been queued is awaited by naming its end.
  std::uint64_t QueuedTo(int peer) const { return At(peer).out.queued(); }
  std::uint64_t QueuedFrom(int peer) const { return At(peer).in.queued(); }
  Status AwaitSent(int peer, std::uint64_t end);
  Status AwaitReceived(int peer, std::uint64_t end);
  // All that has been queued has moved.
  Status AwaitSent();
  Status AwaitReceived();
  Status Finish();

  // Between two pieces: moves what can be moved, and gives way to who wants it.
  Status Pass();

  std::uint64_t sent_bytes() const { return sent_bytes_; }

 private:
  struct Peer {
    std::optional<Channel> channel;
    PeerQueue out;
    PeerQueue in;
    bool flushing = false;  // the channel holds bytes that the socket has not taken
  };

  Peer& At(int peer) { return peers_[static_cast<std::size_t>(peer)]; }
  const Peer& At(int peer) const { return peers_[static_cast<std::size_t>(peer)]; }

  template <class Done>
  Status Await(Done done);
  Result<bool> MoveSome();  // whether a byte has moved
  Result<bool> MoveSomeWith(Peer& peer);
  Result<bool> SendSome(Peer& peer);
  Result<bool> ReceiveSome(Peer& peer);
  Result<bool> GiveWay();  // whether somebody wanted it
  Status Lost() const;
  void Sleep();
  Status Broken(int peer, const Status& cause);
  Status Stalled() const;
  Status Fail(Status status);

  const TcpBackendOptions options_;
  std::vector<Peer> peers_;
  std::vector<pollfd> polled_;
  std::string_view what_;
  std::uint64_t sent_bytes_ = 0;
  int failed_peer_ = -1;  // whose channel MoveSome could not use
};

}  // namespace hora
