// A Link through a pair of rings on the host's board.
#pragma once

#include <deque>
#include <memory>

#include "hora/control/link.h"
#include "hora/shm/board.h"

namespace hora {

// Frames are a 32-bit length and that many bytes. Holds the board alive.
class ShmLink final : public Link {
 public:
  static std::unique_ptr<ShmLink> ToParent(std::shared_ptr<Board> board, int self, int parent);
  static std::unique_ptr<ShmLink> ToChild(std::shared_ptr<Board> board, int self, int child);

  Status Send(std::span<const std::byte> frame, bool urgent) override;
  bool Flush() override;
  bool Receive(std::vector<std::byte>& frame) override;
  bool NeedsAttention() const override;
  const Status& status() const override { return status_; }

 private:
  ShmLink(std::shared_ptr<Board> board, int neighbour, ByteRing outgoing, ByteRing incoming);

  std::shared_ptr<Board> board_;
  int neighbour_;
  ByteRing outgoing_;
  ByteRing incoming_;
  std::deque<std::byte> unsent_;
  std::vector<std::byte> partial_;    // of the frame being received, length prefix included
  Status status_;
};

}  // namespace hora
