// Watches the peers' sockets on a thread of its own that never takes the Python lock.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "hora/control/host_group.h"
#include "hora/shm/board.h"

namespace hora {

// Owns the peer sockets and one thread. When a peer's socket ends without a goodbye, aborts the board
// with kPeerFailed naming the rank and its pid, within milliseconds of the death.
class Liveness {
 public:
  Liveness(int rank, std::vector<PeerSocket> peers, std::shared_ptr<Board> board);
  ~Liveness();  // without SayGoodbye, the peers take it for a death
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;

  // Tells the peers that the coming end-of-file is intended.
  void SayGoodbye();

  // In the child of a fork: closes the sockets, so that the parent's death stays visible to its
  // peers. Async-signal-safe; the object must not be used afterwards.
  void CloseInForkedChild() noexcept;

 private:
  void Watch();

  int rank_;
  std::vector<PeerSocket> peers_;
  std::shared_ptr<Board> board_;
  int stop_fd_ = -1;
  std::jthread thread_;
};

}  // namespace hora
