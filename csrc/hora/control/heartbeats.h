// Who of the other hosts is alive, and what ends the job there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/control/heartbeat_word.h"
#include "hora/net/channel.h"
#include "hora/net/peer_network.h"
#include "hora/shm/board.h"

namespace hora {

// The first rank of a host, towards the first ranks of its neighbours in the tree of hosts. Says
// that it is alive a few times per `silence`; a neighbour that is silent for longer, or whose
// connection ends without a goodbye, aborts the board with kPeerFailed naming it. What aborts one
// host's board travels to all hosts, with its first cause.
//
// Works on the network's thread, which never takes the Python lock. Tell and SayGoodbye: any
// thread; nothing blocks.
class Heartbeats {
 public:
  struct Neighbour {
    int rank = -1;     // global
    std::string host;  // for people
    Channel channel;
  };

  // `first_rank` is this rank. The network outlives it.
  Heartbeats(int first_rank, Duration silence, std::vector<Neighbour> neighbours,
             std::shared_ptr<Board> board, PeerNetwork& network);
  ~Heartbeats();

  // The board is aborted: the other hosts shall know. Does nothing after the first time.
  void Tell();
  // The end of the connections that comes next is intended.
  void SayGoodbye();

 private:
  struct Connection;

  void Beat();
  void Listen(Connection& connection);
  bool Hear(Connection& connection, const HeartbeatWord& word);
  void Lose(Connection& connection, const std::string& how);
  void Say(Connection& connection, const HeartbeatWord& word);

  const int rank_;
  const Duration silence_;
  const std::shared_ptr<Board> board_;
  PeerNetwork& network_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::mutex mutex_;      // held while something is said
  bool told_ = false;     // mutex_
  bool goodbye_ = false;  // mutex_
};

}  // namespace hora
