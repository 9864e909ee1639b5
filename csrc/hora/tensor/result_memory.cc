#include "hora/tensor/result_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>

namespace hora {
namespace {

constexpr std::size_t kHugePage = 2u << 20;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kMaxPieces = 256;

std::size_t RoundUp(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// Huge pages where the kernel gives them on demand: five hundred faults become one.
std::byte* Map(std::size_t bytes) {
  const std::size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* const begin =
      mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) throw std::bad_alloc();
  if (slack == 0) return static_cast<std::byte*>(begin);
  const auto at = reinterpret_cast<std::uintptr_t>(begin);
  const std::size_t before = RoundUp(at, kHugePage) - at;
  std::byte* const data = static_cast<std::byte*>(begin) + before;
  if (before > 0) munmap(begin, before);
  if (before < slack) munmap(data + bytes, slack - before);
  madvise(data, bytes, MADV_HUGEPAGE);  // a wish
  return data;
}

}  // namespace

ResultMemory::ResultMemory(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {
  kept_.reserve(std::min(limit_bytes / kMinKeptBytes, kMaxPieces));
}

ResultMemory::~ResultMemory() {
  for (const Kept& piece : kept_) munmap(piece.data, piece.bytes);
}

ResultMemory::Piece ResultMemory::Allocate(const std::shared_ptr<ResultMemory>& home,
                                           std::size_t bytes) {
  if (bytes < kMinKeptBytes || home == nullptr || home->limit_bytes_ == 0) {
    auto* const data = static_cast<std::byte*>(
        ::operator new[](std::max<std::size_t>(bytes, 1), std::align_val_t{kAlignment}));
    return Piece(data);
  }
  Kept piece = home->Take(bytes);
  if (piece.data == nullptr) {
    piece.bytes = RoundUp(bytes, kPage);
    piece.data = Map(piece.bytes);
  }
  return Piece(piece.data, GiveBack{.home = home, .mapped_bytes = piece.bytes});
}

void ResultMemory::GiveBack::operator()(std::byte* data) const noexcept {
  if (mapped_bytes == 0) {
    ::operator delete[](data, std::align_val_t{kAlignment});
    return;
  }
  const std::shared_ptr<ResultMemory> keeper = home.lock();
  if (keeper == nullptr || !keeper->Keep({data, mapped_bytes})) munmap(data, mapped_bytes);
}

std::size_t ResultMemory::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

// The smallest piece that is large enough, unless more than a quarter of the result would be
// wasted; of equals the youngest, which is most likely to be in a cache.
ResultMemory::Kept ResultMemory::Take(std::size_t bytes) noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return {};
  auto best = kept_.end();
  for (auto piece = kept_.begin(); piece != kept_.end(); ++piece) {
    const bool fits = piece->bytes >= bytes && piece->bytes - bytes <= bytes / 4 + kPage;
    if (fits && (best == kept_.end() || piece->bytes <= best->bytes)) best = piece;
  }
  if (best == kept_.end()) return {};
  const Kept found = *best;
  kept_.erase(best);
  kept_bytes_ -= found.bytes;
  return found;
}

bool ResultMemory::Keep(Kept piece) noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || piece.bytes > limit_bytes_ || kept_.capacity() == 0) return false;
  while (kept_bytes_ + piece.bytes > limit_bytes_ || kept_.size() == kept_.capacity()) DropOldest();
  kept_.push_back(piece);
  kept_bytes_ += piece.bytes;
  return true;
}

void ResultMemory::DropOldest() noexcept {
  munmap(kept_.front().data, kept_.front().bytes);
  kept_bytes_ -= kept_.front().bytes;
  kept_.erase(kept_.begin());
}

}  // namespace hora
