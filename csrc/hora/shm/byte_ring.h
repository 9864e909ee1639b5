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

// A view of one ring. One process (one thread at a time) calls Write, another one calls Read.
// Positions come from shared memory and are checked: a peer that breaks them makes `broken()` true.
class ByteRing {
 public:
  // `storage.size()` is a power of two.
  ByteRing(ByteRingState& state, std::span<std::byte> storage) : state_(&state), storage_(storage) {}

  std::size_t Write(std::span<const std::byte> from);  // bytes taken: 0 when full
  std::size_t Read(std::span<std::byte> to);           // bytes given: 0 when empty
  bool empty() const { return state_->written.load() == state_->read.load(); }
  bool broken() const { return broken_; }

 private:
  ByteRingState* state_;
  std::span<std::byte> storage_;
  bool broken_ = false;
};

}  // namespace hora
