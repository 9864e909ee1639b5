// How one rank gets another one's attention: nothing when it already looks, a futex when it sleeps.
#pragma once

#include <atomic>
#include <cstdint>

#include "hora/base/wait.h"

namespace hora {

// How deeply a thread of the owner sleeps.
enum class Sleep : std::uint8_t {
  kWaiting,  // waits for a peer: any ring wakes it
  kBackup,   // would look after the rank: rings wake it when nobody else attends
  kIdle,     // has nothing to wait for: only urgent rings wake it
};

// Lives in shared memory, one per rank; zero bytes are its initial state. Only the owner rank's
// threads sleep on it; every rank may ring it.
//
// Lost wake-ups are ruled out by order, not by a lock: whoever publishes something stores it with
// seq_cst before Ring(); whoever sleeps registers (seq_cst) before it looks a last time.
class alignas(64) Doorbell {
 public:
  // Costs three loads of one cache line when nobody needs waking.
  void Ring(bool urgent) {
    const bool wake = sleepers(Sleep::kWaiting) != 0 ||
                      (sleepers(Sleep::kBackup) != 0 && (urgent || attendants_.load() == 0)) ||
                      (urgent && sleepers(Sleep::kIdle) != 0);
    if (wake) Wake();
  }

  // While a thread of the owner attends, it promises to look at everything again before it ends, so
  // that ordinary rings need not wake the owner's backup.
  void BeginAttending() { attendants_.fetch_add(1); }
  void EndAttending() { attendants_.fetch_sub(1); }
  bool attended() const { return attendants_.load() != 0; }

  // Sleeps until rung or the deadline; returns at once when `ready()` is true after registering.
  template <class Ready>
  WakeReason SleepUnless(Ready&& ready, Sleep depth, TimePoint deadline) {
    std::atomic<std::uint32_t>& registered = sleepers_[static_cast<int>(depth)];
    registered.fetch_add(1);
    const std::uint32_t seen = rings_.load();
    const WakeReason reason = ready() ? WakeReason::kWoken : FutexWait(rings_, seen, deadline);
    registered.fetch_sub(1);
    return reason;
  }

  // Wakes every sleeping thread of the owner, however deep.
  void Wake() {
    rings_.fetch_add(1);
    FutexWakeAll(rings_);
  }

  std::uint32_t sleepers(Sleep depth) const { return sleepers_[static_cast<int>(depth)].load(); }

 private:
  std::atomic<std::uint32_t> rings_{0};
  std::atomic<std::uint32_t> sleepers_[3]{};
  std::atomic<std::uint32_t> attendants_{0};
};

}  // namespace hora
