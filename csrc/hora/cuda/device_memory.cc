#include "hora/cuda/device_memory.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

#include "hora/base/format.h"

namespace hora {

// --- OwnedStream ---------------------------------------------------------------------------------

Result<OwnedStream> OwnedStream::Create(std::shared_ptr<DeviceRuntime> runtime, int device,
                                        bool urgent) {
  const Result<DeviceStream> stream = runtime->CreateStream(device, urgent);
  if (!stream) return Fail(stream.error());
  return OwnedStream(std::move(runtime), *stream);
}

OwnedStream::OwnedStream(OwnedStream&& other) noexcept
    : runtime_(std::move(other.runtime_)), stream_(std::exchange(other.stream_, {})) {}

OwnedStream& OwnedStream::operator=(OwnedStream&& other) noexcept {
  std::swap(runtime_, other.runtime_);
  std::swap(stream_, other.stream_);
  return *this;
}

OwnedStream::~OwnedStream() {
  if (runtime_ != nullptr) runtime_->Destroy(stream_);
}

// --- EventPool -----------------------------------------------------------------------------------

EventPool::EventPool(std::shared_ptr<DeviceRuntime> runtime, int device)
    : runtime_(std::move(runtime)), device_(device) {}

EventPool::~EventPool() {
  for (const DeviceEvent event : free_) runtime_->Destroy(event);
}

Result<EventPool::Lease> EventPool::Take() {
  DeviceEvent event;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      event = free_.back();
      free_.pop_back();
    }
  }
  if (event.native == nullptr) {
    const Result<DeviceEvent> created = runtime_->CreateEvent(device_);
    if (!created) return Fail(created.error());
    event = *created;
    const std::lock_guard lock(mutex_);
    free_.reserve(++created_);  // so that giving back never allocates
  }
  return Lease(new DeviceEvent(event), [pool = shared_from_this()](const DeviceEvent* lease) {
    const std::lock_guard lock(pool->mutex_);
    pool->free_.push_back(*lease);
    delete lease;
  });
}

// --- PinnedPool ----------------------------------------------------------------------------------

namespace {

constexpr std::size_t kSmallestPinned = 4096;
// Beyond it the next power of two would not be a size of anything.
constexpr std::size_t kLargestPinned = std::size_t{1} << 62;

}  // namespace

PinnedPool::PinnedPool(std::shared_ptr<DeviceRuntime> runtime, std::size_t kept_bytes)
    : runtime_(std::move(runtime)), most_kept_(kept_bytes) {}

PinnedPool::~PinnedPool() { DropFree(); }

Result<PinnedPool::Piece> PinnedPool::Take(std::size_t bytes) {
  if (bytes > kLargestPinned) {
    return Fail(Error(StatusCode::kResource, "{} bytes of pinned memory are more than any host has",
                      bytes));
  }
  const std::size_t size = std::bit_ceil(std::max(bytes, kSmallestPinned));
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = free_.find(size); found != free_.end()) {
      kept_ -= size;
      return Piece(free_.extract(found).mapped(), Return{shared_from_this(), size});
    }
  }
  Result<std::byte*> memory = runtime_->AllocatePinned(size);
  if (!memory) {  // what is kept in other sizes may be what is missing
    DropFree();
    memory = runtime_->AllocatePinned(size);
  }
  if (!memory) return Fail(memory.error());
  return Piece(*memory, Return{shared_from_this(), size});
}

void PinnedPool::Return::operator()(std::byte* memory) const noexcept { pool->Keep(memory, bytes); }

void PinnedPool::Keep(std::byte* memory, std::size_t bytes) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    if (bytes <= most_kept_ - kept_) {
      free_.emplace(bytes, memory);
      kept_ += bytes;
      return;
    }
  } catch (const std::bad_alloc&) {  // then it is not kept
  }
  runtime_->FreePinned(memory);
}

void PinnedPool::DropFree() noexcept {
  std::multimap<std::size_t, std::byte*> dropped;
  {
    const std::lock_guard lock(mutex_);
    dropped.swap(free_);
    kept_ = 0;
  }
  for (const auto& [bytes, memory] : dropped) runtime_->FreePinned(memory);
}

std::size_t PinnedPool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_;
}

// --- DeviceBuffer --------------------------------------------------------------------------------

DeviceMemorySource DeviceMemorySource::OfRuntime(std::shared_ptr<DeviceRuntime> runtime,
                                                 int device) {
  DeviceRuntime* const owned = runtime.get();
  return {
      .allocate = [owned,
                   device](std::size_t bytes) { return owned->AllocateDevice(device, bytes); },
      .free = [runtime = std::move(runtime)](std::byte* memory) { runtime->FreeDevice(memory); }};
}

DeviceBuffer::~DeviceBuffer() {
  for (std::byte* const memory : outgrown_) source_.free(memory);
  if (data_ != nullptr) source_.free(data_);
}

Result<std::span<std::byte>> DeviceBuffer::Reserve(std::size_t bytes) {
  if (bytes > bytes_) {
    std::size_t grown = 0;
    const Result<std::byte*> memory = Grow(bytes, grown);
    if (!memory) return Fail(memory.error());
    if (data_ != nullptr) outgrown_.push_back(data_);
    data_ = *memory;
    bytes_ = grown;
  }
  return std::span(data_, bytes);
}

// A lost device is not short of memory: no second question then.
Result<std::byte*> DeviceBuffer::Grow(std::size_t wanted, std::size_t& got) {
  got = std::max(wanted, 2 * bytes_);
  Result<std::byte*> memory = source_.allocate(got);
  const auto is_short = [&] { return !memory && memory.error().code() == StatusCode::kResource; };
  if (is_short() && got != wanted) memory = source_.allocate(got = wanted);
  if (is_short() && make_room_) {
    make_room_();
    memory = source_.allocate(wanted);
  }
  if (!is_short()) return memory;
  return Fail(Error(StatusCode::kResource,
                    "cuda:{} has no {} bytes for what operations pass through: {}. Leave more of "
                    "its memory free, or make batches smaller: HORA_FUSION_THRESHOLD_BYTES",
                    device_, wanted, memory.error().message()));
}

}  // namespace hora
