// Memory for results that are allocated when they come, kept for the next ones.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace hora {

// Keeps large pieces that were let go of: the operating system hands out memory page by page,
// zeroed, and that takes several times as long as filling it with a result does.
//
// Owns the pieces that are kept; whoever holds the others may outlive it, and they then go straight
// back to the operating system. Any thread; nothing blocks: where another thread is just at it, or
// was when this process was forked, memory is mapped or unmapped as if nothing were kept. Allocate
// throws std::bad_alloc.
class ResultMemory {
 public:
  static constexpr std::size_t kMinKeptBytes = 1u << 20;  // smaller pieces are malloc's business
  static constexpr std::size_t kAlignment = 64;

  struct GiveBack {
    std::weak_ptr<ResultMemory> home;
    std::size_t mapped_bytes = 0;  // 0: by operator new
    void operator()(std::byte* data) const noexcept;
  };
  using Piece = std::unique_ptr<std::byte[], GiveBack>;

  // Keeps at most `limit_bytes` in all; what has been kept for longest goes first. 0: everything is
  // malloc's business.
  explicit ResultMemory(std::size_t limit_bytes);
  ~ResultMemory();
  ResultMemory(const ResultMemory&) = delete;
  ResultMemory& operator=(const ResultMemory&) = delete;

  // Of `home`, or of nobody if that is null. Uninitialised, kAlignment-aligned.
  static Piece Allocate(const std::shared_ptr<ResultMemory>& home, std::size_t bytes);

  std::size_t kept_bytes() const;

 private:
  struct Kept {
    std::byte* data = nullptr;
    std::size_t bytes = 0;
  };

  Kept Take(std::size_t bytes) noexcept;
  bool Keep(Kept piece) noexcept;
  void DropOldest() noexcept;

  const std::size_t limit_bytes_;
  mutable std::mutex mutex_;
  std::vector<Kept> kept_;  // mutex_; by age, its memory reserved
  std::size_t kept_bytes_ = 0;
};

}  // namespace hora
