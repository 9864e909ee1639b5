// A single-producer single-consumer ring of bytes in shared memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace hora {

// The shared part; zero bytes are its initial state. Positions only grow (64-bit, never wrap).
struct ByteRingState {
  alignas(64) std::atomic<std::uint64_t> written;
  alignas(64) std::atomic<std::uint64_t> read;
};

// A view of one ring. One process (one thread at a time) calls Write, another one calls Read; any
// thread may ask empty() and full(). Nothing blocks and nothing wakes the other side: that is the
// caller's doorbell to ring.
// Positions come from shared memory and are checked: a peer that breaks them makes `broken()` true,
// after which nothing is moved any more.
class ByteRing {
 public:
  // `storage.size()` is a power of two.
  ByteRing(ByteRingState& state, std::span<std::byte> storage)
      : state_(&state), storage_(storage) {}

  // Bytes taken, of `head` first and then of `body`, published by one store: 0 when full.
  std::size_t Write(std::span<const std::byte> head, std::span<const std::byte> body = {});
  std::size_t Read(std::span<std::byte> to);  // bytes given: 0 when empty

  bool empty() const { return state_->written.load() == state_->read.load(); }
  bool full() const { return state_->written.load() - state_->read.load() >= storage_.size(); }
  bool broken() const { return broken_; }

  // After Read: the writer may have found the ring full and be asleep, so it has to be rung.
  bool writer_may_wait() const { return writer_may_wait_; }

 private:
  bool LoadPositions();
  void CopyIn(std::uint64_t position, std::span<const std::byte> from);

  ByteRingState* state_;
  std::span<std::byte> storage_;
  std::uint64_t written_ = 0;  // as last seen: positions that go back are broken
  std::uint64_t read_ = 0;
  bool writer_may_wait_ = false;
  bool broken_ = false;
};

}  // namespace hora
