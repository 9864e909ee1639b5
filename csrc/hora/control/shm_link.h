// A Link through a pair of rings on the host's board.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "hora/control/framing.h"
#include "hora/control/link.h"
#include "hora/shm/board.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// Holds the board alive. Nothing blocks; buffers are kept, so that the steady state does not
// allocate. Only NeedsAttention may be called by threads that do not hold the progress context.
class ShmLink final : public Link {
 public:
  // The up ring of a rank is written by it and read by its parent, the down ring vice versa.
  // `names` says what errors call the ranks of the board.
  static std::unique_ptr<ShmLink> ToParent(std::shared_ptr<Board> board, int self, int parent,
                                           const RankNames& names = {});
  static std::unique_ptr<ShmLink> ToChild(std::shared_ptr<Board> board, int self, int child,
                                          const RankNames& names = {});

  Status Send(std::span<const std::byte> frame, bool urgent) override;
  bool Flush() override;
  bool Receive(std::vector<std::byte>& frame) override;
  bool NeedsAttention() const override;
  const Status& status() const override { return status_; }

 private:
  ShmLink(std::shared_ptr<Board> board, int neighbour, int neighbour_name, ByteRing outgoing,
          ByteRing incoming);

  std::size_t Take(std::span<std::byte> to);
  void CheckOutgoing();

  std::shared_ptr<Board> board_;
  int neighbour_;
  int neighbour_name_;  // its global rank
  ByteRing outgoing_;
  ByteRing incoming_;
  UnsentBytes unsent_;
  bool unsent_urgent_ = false;  // its last piece has to wake an idle neighbour, too
  std::atomic<bool> has_unsent_ = false;
  FrameReader reader_;
  Status status_;
};

}  // namespace hora
