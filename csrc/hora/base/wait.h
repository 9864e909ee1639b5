// Waiting without a timer: spin → yield → futex, always with a deadline.
//
// Costs that shape it (2-core virtual machine): a hand-over between two spinning cores is 0.05 µs,
// sched_yield on a shared core 1.1 µs, a futex wake across cores 12–22 µs. Pure spinning collapses
// when ranks outnumber cores, so the policy depends on both.
#pragma once

#include <atomic>
#include <cstdint>

#include "hora/base/clock.h"

namespace hora {

struct WaitPolicy {
  int spins = 2000;                                     // rounds of `pause` before yielding
  Duration yield_for = std::chrono::microseconds(100);  // then sched_yield for this long

  static WaitPolicy For(int ranks_on_host, int usable_cores);
};

int UsableCores();  // cores this process may run on (affinity mask)

// One `pause`/`yield` instruction.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

enum class WakeReason : std::uint8_t { kWoken, kDeadline, kInterrupted };  // kInterrupted: a signal

// Sleeps while *word == expected, until woken or the deadline. Works across processes.
WakeReason FutexWait(std::atomic<std::uint32_t>& word, std::uint32_t expected, TimePoint deadline);
void FutexWakeAll(std::atomic<std::uint32_t>& word);

void YieldCore();

// The turns of a thread that yields while it waits. One thread.
class YieldTurns {
 public:
  YieldTurns(const WaitPolicy& policy, TimePoint now) : end_(now + policy.yield_for), last_(now) {}

  // Yields; false, without, when it is time to sleep: the patience has ended, or the last turn took
  // so long that somebody computes on this core. That thread would get the core again at every
  // yield, for a whole time slice, while a sleeper gets it as soon as it is woken.
  bool Take(TimePoint now) {
    if (now >= end_ || now - last_ > kLongTurn) return false;
    last_ = now;
    YieldCore();
    return true;
  }

 private:
  static constexpr Duration kLongTurn = std::chrono::microseconds(400);

  TimePoint end_;
  TimePoint last_;
};

// Spins, then yields, until `ready()`; false when the policy's patience ends first, or somebody
// else needs the core. Never sleeps.
template <class Ready>
bool SpinUntil(const WaitPolicy& policy, Ready&& ready) {
  for (int i = 0; i < policy.spins; ++i) {
    if (ready()) return true;
    CpuRelax();
  }
  const SteadyClock& clock = SteadyClock::Instance();
  YieldTurns turns(policy, clock.Now());
  do {
    if (ready()) return true;
  } while (turns.Take(clock.Now()));
  return ready();
}

}  // namespace hora
