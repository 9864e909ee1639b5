#include "hora/control/shm_link.h"

#include <algorithm>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"

namespace hora {

std::unique_ptr<ShmLink> ShmLink::ToParent(std::shared_ptr<Board> board, int self, int parent,
                                           const RankNames& names) {
  Check(self != parent && parent >= 0 && parent < board->size(), "a parent on this board");
  ByteRing up = board->UpRing(self);
  ByteRing down = board->DownRing(self);
  return std::unique_ptr<ShmLink>(
      new ShmLink(std::move(board), parent, names.Of(parent), up, down));
}

std::unique_ptr<ShmLink> ShmLink::ToChild(std::shared_ptr<Board> board, int self, int child,
                                          const RankNames& names) {
  Check(self != child && self >= 0 && self < board->size(), "a child on this board");
  ByteRing up = board->UpRing(child);
  ByteRing down = board->DownRing(child);
  return std::unique_ptr<ShmLink>(new ShmLink(std::move(board), child, names.Of(child), down, up));
}

ShmLink::ShmLink(std::shared_ptr<Board> board, int neighbour, int neighbour_name, ByteRing outgoing,
                 ByteRing incoming)
    : board_(std::move(board)),
      neighbour_(neighbour),
      neighbour_name_(neighbour_name),
      outgoing_(outgoing),
      incoming_(incoming),
      reader_(neighbour_name) {}

Status ShmLink::Send(std::span<const std::byte> frame, bool urgent) {
  if (Status status = CheckFrame(frame, neighbour_name_); !status.ok()) return status;
  const FramePrefix prefix = PrefixOf(frame);
  std::size_t sent = 0;
  if (Flush()) sent = outgoing_.Write(prefix, frame);
  CheckOutgoing();
  if (!status_.ok()) return status_;
  if (sent < prefix.size() + frame.size()) {
    unsent_.Keep(std::span(prefix).subspan(std::min(sent, prefix.size())));
    unsent_.Keep(frame.subspan(sent - std::min(sent, prefix.size())));
    unsent_urgent_ = unsent_urgent_ || urgent;
    has_unsent_.store(true);
  }
  // Also when nothing fitted: the neighbour has to make room.
  board_->flags(neighbour_).doorbell.Ring(urgent);
  return Status::Ok();
}

bool ShmLink::Flush() {
  if (unsent_.empty()) return true;
  const std::size_t sent = outgoing_.Write(unsent_.bytes());
  CheckOutgoing();
  if (sent == 0) return false;
  unsent_.Drop(sent);
  board_->flags(neighbour_).doorbell.Ring(unsent_urgent_);
  if (!unsent_.empty()) return false;
  unsent_urgent_ = false;
  has_unsent_.store(false);
  return true;
}

bool ShmLink::Receive(std::vector<std::byte>& frame) {
  if (!status_.ok()) return false;
  return reader_.Receive([this](std::span<std::byte> to) { return Take(to); }, frame, status_);
}

std::size_t ShmLink::Take(std::span<std::byte> to) {
  const std::size_t given = incoming_.Read(to);
  if (incoming_.writer_may_wait()) board_->flags(neighbour_).doorbell.Ring(/*urgent=*/true);
  if (incoming_.broken() && status_.ok()) {
    status_ = Error(StatusCode::kInternal,
                    "the control ring from rank {} is broken: its positions are out of range",
                    neighbour_name_);
  }
  return given;
}

void ShmLink::CheckOutgoing() {
  if (outgoing_.broken() && status_.ok()) {
    status_ = Error(StatusCode::kInternal,
                    "the control ring to rank {} is broken: its positions are out of range",
                    neighbour_name_);
  }
}

bool ShmLink::NeedsAttention() const {
  return !incoming_.empty() || (has_unsent_.load() && !outgoing_.full());
}

}  // namespace hora
