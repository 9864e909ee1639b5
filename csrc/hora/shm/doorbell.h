// How one rank gets another one's attention: nothing when it already looks, a futex when it sleeps.
#pragma once

#include <atomic>
#include <cstdint>

#include "hora/base/wait.h"

namespace hora {

// Lives in shared memory, one per rank; zero bytes are its initial state. Only the owner rank's
// threads sleep on it; every rank may ring it.
//
// Lost wake-ups are ruled out by order, not by a lock: whoever publishes something stores it with
// seq_cst before Ring(); whoever sleeps registers (seq_cst) before it looks a last time.
class alignas(64) Doorbell {
 public:
  // `urgent` also wakes threads that sleep lightly. Costs one load when nobody sleeps.
  void Ring(bool urgent) {
    const bool asleep = sleepers_.load() != 0 && attended_.load() == 0;
    if (asleep || (urgent && light_sleepers_.load() != 0)) Wake();
  }

  // While a thread of the owner is attended, it promises to look at everything again before it ends,
  // so that ordinary rings need not wake the owner's other threads.
  void BeginAttending() { attended_.fetch_add(1); }
  void EndAttending() { attended_.fetch_sub(1); }

  // Sleeps until rung or the deadline; returns at once when `ready()` is true after registering.
  // `only_urgent`: this thread has nothing to wait for and only wants to hear of emergencies.
  template <class Ready>
  WakeReason SleepUnless(Ready&& ready, bool only_urgent, TimePoint deadline) {
    std::atomic<std::uint32_t>& registered = only_urgent ? light_sleepers_ : sleepers_;
    registered.fetch_add(1);
    const std::uint32_t seen = rings_.load();
    const WakeReason reason = ready() ? WakeReason::kWoken : FutexWait(rings_, seen, deadline);
    registered.fetch_sub(1);
    return reason;
  }

  // Wakes every sleeping thread of the owner, light or not.
  void Wake() {
    rings_.fetch_add(1);
    FutexWakeAll(rings_);
  }

 private:
  std::atomic<std::uint32_t> rings_{0};
  std::atomic<std::uint32_t> sleepers_{0};
  std::atomic<std::uint32_t> light_sleepers_{0};
  std::atomic<std::uint32_t> attended_{0};
};

}  // namespace hora
