#include "hora/shm/symmetric_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

// Offsets of a set's regions. They are not used again: nobody can say when the last rank is past
// the region that was there. The file is sparse, so this costs nothing.
constexpr std::size_t kOffsetsPerSet = std::size_t{1} << 42;
constexpr int kMaxSet = (1 << 20) - 2;

constexpr std::size_t kHugePage = 2u << 20;

std::size_t RoundUp(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::size_t PageBytes() {
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return page;
}

}  // namespace

// The last page of a region.
struct SymmetricMemory::Header {
  std::atomic<std::int64_t> users;  // ranks that have the region mapped, or are about to
};

static_assert(std::atomic<std::int64_t>::is_always_lock_free);

SymmetricMemory::SymmetricMemory(std::shared_ptr<SymmetricHeap> heap, Segment segment,
                                 std::uint64_t number, std::size_t offset, std::size_t stride,
                                 std::size_t bytes)
    : heap_(std::move(heap)),
      segment_(std::move(segment)),
      number_(number),
      offset_(offset),
      stride_(stride),
      bytes_(bytes),
      owner_(getpid()) {
  header().users.fetch_add(1);
}

SymmetricMemory::~SymmetricMemory() {
  if (getpid() != owner_) return;  // only unmaps; the heap's locks may be held for ever here
  heap_->Forget(*this);
  if (header().users.fetch_sub(1) > 1) return;
  Segment::FreePart(heap_->fd_, offset_, segment_.bytes().size());
}

// Touched by its owner before it is reserved: so it lies near the owner's core, and in huge pages
// where the system has them for shared memory.
Status SymmetricMemory::MakeSlice() {
  const std::size_t begin = static_cast<std::size_t>(heap_->rank()) * stride_;
  Segment::Populate({first_slice() + begin, stride_});
  return Segment::ReservePart(heap_->fd_, offset_ + begin, stride_);
}

SymmetricMemory::Header& SymmetricMemory::header() const {
  const auto slices = static_cast<std::size_t>(heap_->size()) * stride_;
  return *reinterpret_cast<Header*>(first_slice() + slices);
}

std::span<std::byte> SymmetricMemory::slice() const {
  return {first_slice() + static_cast<std::size_t>(heap_->rank()) * stride_, bytes_};
}

SymmetricHeap::SymmetricHeap(int fd, int set, int rank, int size)
    : fd_(fd),
      set_(set),
      rank_(rank),
      size_(size),
      next_offset_((static_cast<std::size_t>(set) + 1) * kOffsetsPerSet) {}

SymmetricHeap::~SymmetricHeap() { close(fd_); }

Result<std::shared_ptr<SymmetricHeap>> SymmetricHeap::Create(int fd, int set, int rank, int size) {
  if (set > kMaxSet) {
    return Fail(Error(StatusCode::kResource,
                      "process set {} has no place for symmetric memory; sets up to {} have", set,
                      kMaxSet));
  }
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) {
    return Fail(Error(StatusCode::kResource, "symmetric memory: cannot keep a descriptor: {}",
                      std::strerror(errno)));
  }
  return std::shared_ptr<SymmetricHeap>(new SymmetricHeap(own, set, rank, size));
}

std::size_t SymmetricHeap::StrideFor(std::size_t bytes) const {
  return RoundUp(std::max<std::size_t>(bytes, 1), bytes < kHugePage ? PageBytes() : kHugePage);
}

Status SymmetricHeap::CheckRoom(std::size_t bytes) const {
  const std::size_t most = kOffsetsPerSet / static_cast<std::size_t>(size_) / 2;
  if (bytes > most) {
    return Error(StatusCode::kResource, "{} bytes for each rank; of {} ranks, each can have {}",
                 bytes, size_, most);
  }
  const std::size_t all = StrideFor(bytes) * static_cast<std::size_t>(size_) + PageBytes();
  return Segment::CheckRoom((static_cast<std::size_t>(set_) + 1) * kOffsetsPerSet, all);
}

Result<std::shared_ptr<SymmetricMemory>> SymmetricHeap::Map(std::size_t bytes) {
  const std::size_t stride = StrideFor(bytes);
  const std::size_t slices = stride * static_cast<std::size_t>(size_);
  const std::size_t total = slices + PageBytes();
  const std::size_t end = (static_cast<std::size_t>(set_) + 2) * kOffsetsPerSet;
  std::unique_lock next(next_mutex_);
  const std::size_t offset = RoundUp(next_offset_, bytes < kHugePage ? PageBytes() : kHugePage);
  if (offset > end - std::min(end, total)) {
    return Fail(Error(StatusCode::kResource,
                      "all {} bytes of addresses for symmetric memory are used up; allocate less "
                      "often and keep what was allocated",
                      kOffsetsPerSet));
  }
  const std::uint64_t number = next_number_++;
  next_offset_ = offset + total;
  next.unlock();

  // The header first: with it, the memory is long enough for all that comes before it.
  Status reserved = Segment::ReservePart(fd_, offset + slices, PageBytes());
  if (!reserved.ok()) return Fail(std::move(reserved));
  Result<Segment> segment = Segment::MapPart(fd_, offset, total);
  if (!segment) return Fail(std::move(segment.error()));
  std::shared_ptr<SymmetricMemory> region(
      new SymmetricMemory(shared_from_this(), std::move(*segment), number, offset, stride, bytes));
  const std::unique_lock lock(regions_mutex_);
  const auto by_address = [](const SymmetricMemory* a, const SymmetricMemory* b) {
    return std::less<>()(a->slice().data(), b->slice().data());
  };
  regions_.insert(std::ranges::upper_bound(regions_, region.get(), by_address), region.get());
  return region;
}

void SymmetricHeap::Forget(const SymmetricMemory& region) {
  const std::unique_lock lock(regions_mutex_);
  std::erase(regions_, &region);
}

const SymmetricMemory* SymmetricHeap::Find(const std::byte* data, std::size_t bytes) const {
  const std::shared_lock lock(regions_mutex_);
  const auto begins_after = [](const std::byte* address, const SymmetricMemory* region) {
    return std::less<>()(address, region->slice().data());
  };
  const auto after = std::upper_bound(regions_.begin(), regions_.end(), data, begins_after);
  if (after == regions_.begin()) return nullptr;
  const std::span<std::byte> slice = (*std::prev(after))->slice();
  const auto at = static_cast<std::size_t>(data - slice.data());
  return at < slice.size() && bytes <= slice.size() - at ? *std::prev(after) : nullptr;
}

}  // namespace hora
