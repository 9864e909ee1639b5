// Watches the peers' sockets on a thread of its own that never takes the Python lock.
#pragma once

#include <memory>
#include <stop_token>
#include <thread>
#include <vector>

#include "hora/control/host_group.h"
#include "hora/shm/board.h"

namespace hora {

// Owns the peer sockets and one thread. When a peer's socket ends without a goodbye, aborts the
// board with kPeerFailed naming the rank and its pid, within milliseconds of the death. A failure
// to watch (no thread, no memory) aborts the board as well: a group without a watch would hang.
class Liveness {
 public:
  Liveness(int rank, std::vector<PeerSocket> peers, std::shared_ptr<Board> board);
  ~Liveness();  // without SayGoodbye, the peers take it for a death
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;

  // Tells the peers that the coming end-of-file is intended. Any thread; does not block.
  void SayGoodbye();

  // In the child of a fork: closes the sockets, so that the parent's death stays visible to its
  // peers. Async-signal-safe; the object must not be used afterwards, not even destroyed.
  void CloseInForkedChild() noexcept;

 private:
  void Start();
  void Watch(const std::stop_token& stop);
  bool StillThere(const PeerSocket& peer);

  const int rank_;
  const std::vector<PeerSocket> peers_;
  const std::shared_ptr<Board> board_;
  int stop_fd_ = -1;  // readable: look at the stop token
  std::jthread thread_;
};

}  // namespace hora
