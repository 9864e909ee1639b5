// NCCL's own communicator: whose turn it is to call it, and how it ends.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/status.h"
#include "hora/collectives/nccl/nccl_library.h"

namespace hora {

inline constexpr Duration kNcclNap = std::chrono::microseconds(200);  // between questions to NCCL

// What NCCL reads, and writes until the very end, while it makes a communicator.
struct NcclDraft {
  nccl::Comm comm = nullptr;
  nccl::Config config{};  // without blocking
  std::vector<int> leaving;

  NcclDraft();
};

// Owns a communicator. One thread at a time calls NCCL through it: whoever has the turn. Its end is
// a thread of its own, since NCCL's knows no deadline: finalize, destroy and abort may wait for a
// kernel that never ends. Whoever waits does so with a deadline; what has not ended by then is left
// to that thread, with the library and all that the communicator has. Any thread may call anything;
// only TakeTurn and AwaitEnd block, nothing fails.
class NcclComm : public std::enable_shared_from_this<NcclComm> {
 public:
  // `enter` is called by the thread of the end: it makes the device the thread's; may be empty.
  NcclComm(std::shared_ptr<const NcclLibrary> library, std::function<void()> enter)
      : library_(std::move(library)), enter_(std::move(enter)) {}

  const nccl::Api& api() const { return library_->api(); }

  using Turn = std::unique_lock<std::mutex>;
  Turn TakeTurn() { return Turn(turn_); }
  Turn TryTurn() { return Turn(turn_, std::try_to_lock); }

  // With a turn:
  nccl::Comm get() const { return is_over() ? nullptr : comm_; }  // null: lost, or it ends
  // NCCL has begun to make it. The draft lives as long.
  void Begin(std::shared_ptr<NcclDraft> draft);
  // NCCL makes a part of it, which an abort takes along; null: not any more.
  void BeginPart(std::shared_ptr<NcclDraft> draft) { part_ = std::move(draft); }

  // Nobody is to call it any more; begins the abort, unless it ends already. The first cause stays.
  void Lose(const Status& cause);
  Status failure() const;  // OK: it was not lost
  bool is_lost() const { return lost_.load() != 0; }
  bool is_over() const { return is_lost() || ending_.load(); }
  void SleepUnlessLost(TimePoint deadline) { FutexSleep(lost_, deadline); }

  // Begins the orderly end, which waits for streams and graphs.
  void Finish();
  bool AwaitEnd(TimePoint deadline);  // false: not yet

 private:
  static void FutexSleep(std::atomic<std::uint32_t>& word, TimePoint deadline);
  void Aside(void (NcclComm::*end)());
  void FinishNow();
  void AbortNow();
  void Ended();  // by a thread aside, of which the last one tells
  void LeaveAside();

  // Gone once it has ended; read with the turn while get() gives something, and by threads aside.
  std::shared_ptr<const NcclLibrary> library_;
  std::function<void()> enter_;

  std::mutex aside_mutex_;
  int aside_ = 0;           // aside_mutex_; threads at the end
  bool has_ended_ = false;  // aside_mutex_

  std::mutex turn_;
  nccl::Comm comm_ = nullptr;        // turn_
  bool taken_ = false;               // turn_; by the thread that ends it
  std::shared_ptr<NcclDraft> own_;   // turn_
  std::shared_ptr<NcclDraft> part_;  // turn_

  mutable std::mutex failure_mutex_;
  Status failure_;  // failure_mutex_

  std::atomic<bool> begun_{false};
  std::atomic<bool> ending_{false};
  std::atomic<std::uint32_t> lost_{0};   // a futex
  std::atomic<std::uint32_t> ended_{0};  // a futex
};

}  // namespace hora
