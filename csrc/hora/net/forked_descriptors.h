// The descriptors that a forked child must close, known without a lock.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <vector>

namespace hora {

// Room for a fixed number; those beyond it are not remembered, so that a forked child keeps them
// open until it ends. Any thread; CloseAll is async-signal-safe.
class ForkedDescriptors {
 public:
  explicit ForkedDescriptors(std::size_t room) : fds_(room) {}

  void Add(int fd) {
    for (std::atomic<int>& place : fds_) {
      int empty = 0;
      if (place.compare_exchange_strong(empty, fd + 1)) return;
    }
  }

  // Before the descriptor is closed: its number may be another's at once.
  void Remove(int fd) {
    for (std::atomic<int>& place : fds_) {
      int held = fd + 1;
      if (place.compare_exchange_strong(held, 0)) return;
    }
  }

  void CloseAll() const noexcept {
    for (const std::atomic<int>& place : fds_) {
      if (const int held = place.load(); held > 0) close(held - 1);
    }
  }

 private:
  std::vector<std::atomic<int>> fds_;  // plus one; 0: empty
};

}  // namespace hora
