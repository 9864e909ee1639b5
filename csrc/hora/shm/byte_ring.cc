#include "hora/shm/byte_ring.h"

#include <algorithm>
#include <cstring>

namespace hora {

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// False when the ring is broken.
bool ByteRing::LoadPositions() {
  if (broken_) return false;
  // One of the two is this side's own, so reading them one after the other is consistent.
  const std::uint64_t read = state_->read.load();
  const std::uint64_t written = state_->written.load();
  if (written < written_ || read < read_ || written < read || written - read > storage_.size()) {
    broken_ = true;
    return false;
  }
  written_ = written;
  read_ = read;
  return true;
}

void ByteRing::CopyIn(std::uint64_t position, std::span<const std::byte> from) {
  const std::size_t offset = position & (storage_.size() - 1);
  const std::size_t first = std::min(from.size(), storage_.size() - offset);
  std::copy_n(from.begin(), first, storage_.begin() + offset);
  std::copy(from.begin() + first, from.end(), storage_.begin());
}

std::size_t ByteRing::Write(std::span<const std::byte> head, std::span<const std::byte> body) {
  if (!LoadPositions()) return 0;
  const std::size_t room = storage_.size() - (written_ - read_);
  const std::size_t from_head = std::min(room, head.size());
  const std::size_t from_body = std::min(room - from_head, body.size());
  const std::size_t taken = from_head + from_body;
  if (taken == 0) return 0;
  CopyIn(written_, head.first(from_head));
  CopyIn(written_ + from_head, body.first(from_body));
  written_ += taken;
  state_->written.store(written_);  // seq_cst: the doorbell's protocol
  return taken;
}

std::size_t ByteRing::Read(std::span<std::byte> to) {
  writer_may_wait_ = false;
  if (!LoadPositions()) return 0;
  const std::size_t given = std::min<std::size_t>(written_ - read_, to.size());
  if (given == 0) return 0;
  const std::size_t offset = read_ & (storage_.size() - 1);
  const std::size_t first = std::min(given, storage_.size() - offset);
  std::copy_n(storage_.begin() + offset, first, to.begin());
  std::copy_n(storage_.begin(), given - first, to.begin() + first);
  const std::uint64_t read_before = read_;
  read_ += given;
  state_->read.store(read_);
  // A writer that filled the ring before it could see this store may have gone to sleep; one that
  // fills it later sees the room. Both sides are seq_cst, so one of the two always holds.
  writer_may_wait_ = state_->written.load() - read_before >= storage_.size();
  return given;
}

}  // namespace hora
