#include "hora/control/shm_link.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/wire/codec.h"

namespace hora {
namespace {

static_assert(kMaxFrameBytes <= 0xffffffffu);

// A length is believed only as far as its bytes have come: memory grows by so much ahead of them.
constexpr std::size_t kGrowth = kControlRingBytes;

}  // namespace

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
      incoming_(incoming) {}

Status ShmLink::Send(std::span<const std::byte> frame, bool urgent) {
  if (frame.size() > kMaxFrameBytes) {
    return Error(StatusCode::kResource,
                 "a control message of {} bytes to rank {} is too large; at most {} are allowed",
                 frame.size(), neighbour_name_, kMaxFrameBytes);
  }
  const auto length = static_cast<std::uint32_t>(frame.size());
  Prefix prefix;
  std::memcpy(prefix.data(), &length, sizeof(length));
  std::size_t sent = 0;
  if (Flush()) sent = outgoing_.Write(prefix, frame);
  CheckOutgoing();
  if (!status_.ok()) return status_;
  if (sent < prefix.size() + frame.size()) {
    Keep(std::span<const std::byte>(prefix).subspan(std::min(sent, prefix.size())));
    Keep(frame.subspan(sent - std::min(sent, prefix.size())));
    unsent_urgent_ = unsent_urgent_ || urgent;
    has_unsent_.store(true);
  }
  // Also when nothing fitted: the neighbour has to make room.
  board_->flags(neighbour_).doorbell.Ring(urgent);
  return Status::Ok();
}

void ShmLink::Keep(std::span<const std::byte> bytes) {
  // Moving the rest to the front costs no more than what has been sent since the last time.
  if (unsent_head_ > unsent_.size() / 2) {
    unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(unsent_head_));
    unsent_head_ = 0;
  }
  unsent_.insert(unsent_.end(), bytes.begin(), bytes.end());
}

bool ShmLink::Flush() {
  if (unsent_head_ == unsent_.size()) return true;
  const std::size_t sent =
      outgoing_.Write(std::span<const std::byte>(unsent_).subspan(unsent_head_));
  CheckOutgoing();
  if (sent == 0) return false;
  unsent_head_ += sent;
  board_->flags(neighbour_).doorbell.Ring(unsent_urgent_);
  if (unsent_head_ < unsent_.size()) return false;
  unsent_.clear();
  unsent_head_ = 0;
  unsent_urgent_ = false;
  has_unsent_.store(false);
  return true;
}

bool ShmLink::Receive(std::vector<std::byte>& frame) {
  if (!status_.ok()) return false;
  if (prefix_received_ < prefix_.size()) {
    prefix_received_ += Take(std::span<std::byte>(prefix_).subspan(prefix_received_));
    if (prefix_received_ < prefix_.size()) return false;
    partial_.clear();
  }
  std::uint32_t length = 0;
  std::memcpy(&length, prefix_.data(), sizeof(length));
  if (length > kMaxFrameBytes) {
    status_ = Error(StatusCode::kInternal,
                    "rank {} sent a control message of {} bytes; at most {} are allowed",
                    neighbour_name_, length, kMaxFrameBytes);
    return false;
  }
  while (partial_.size() < length) {
    const std::size_t before = partial_.size();
    partial_.resize(before + std::min(length - before, kGrowth));
    const std::size_t given = Take(std::span<std::byte>(partial_).subspan(before));
    partial_.resize(before + given);
    if (given == 0) return false;
  }
  std::swap(frame, partial_);
  prefix_received_ = 0;
  return true;
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
