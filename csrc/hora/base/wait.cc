#include "hora/base/wait.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <ctime>
#include <thread>

namespace hora {

WaitPolicy WaitPolicy::For(int ranks_on_host, int usable_cores) {
  WaitPolicy policy;
  // A spinning rank would hold the core that the rank it waits for needs.
  if (ranks_on_host > usable_cores) policy.spins = 0;
  return policy;
}

int UsableCores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void YieldCore() { sched_yield(); }

// Not FUTEX_PRIVATE: the words live in memory shared between processes.
WakeReason FutexWait(std::atomic<std::uint32_t>& word, std::uint32_t expected, TimePoint deadline) {
  static_assert(sizeof(word) == sizeof(std::uint32_t));
  // The kernel rejects negative times; they are deadlines that have passed.
  const Duration since_boot = std::max(deadline.time_since_epoch(), Duration::zero());
  const timespec until{.tv_sec = since_boot.count() / 1'000'000'000,
                       .tv_nsec = since_boot.count() % 1'000'000'000};
  // WAIT_BITSET takes an absolute CLOCK_MONOTONIC time, which is what steady_clock counts.
  const long rc = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, expected, &until, nullptr,
                          FUTEX_BITSET_MATCH_ANY);
  if (rc == 0 || errno == EAGAIN) return WakeReason::kWoken;
  return errno == ETIMEDOUT ? WakeReason::kDeadline : WakeReason::kInterrupted;
}

void FutexWakeAll(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace hora
