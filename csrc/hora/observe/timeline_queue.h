// Events on their way from the progress contexts to the writer of a timeline.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/clock.h"
#include "hora/tensor/op_kind.h"

namespace hora {

enum class TracePoint : std::uint8_t { kSubmit, kAgreed, kBatchBegin, kBatchEnd, kComplete };

// Followed, in the batch's text, by the operation's name and by its error.
struct TraceEvent {
  TracePoint point = TracePoint::kSubmit;
  OpKind op = OpKind::kAllreduce;
  std::int32_t process_set = 0;
  bool bulk = false;  // kBatchBegin, kBatchEnd
  TimePoint time;
  std::uint64_t bytes = 0;
  std::uint32_t members = 0;  // kBatchBegin
  std::uint32_t name_size = 0;
  std::uint32_t error_size = 0;  // 0: it went well
};

struct TraceBatch {
  std::vector<TraceEvent> events;  // in the order of their times
  std::string text;
  std::uint64_t dropped = 0;  // that did not fit since the last batch

  void Clear();
};

// Bounded. Push: any thread; a short lock, and no allocation once both buffers have grown. Open,
// Close and Take: the timeline's own threads.
class TraceQueue {
 public:
  static constexpr std::size_t kMaxEvents = 1 << 16;
  static constexpr std::size_t kMaxText = 4 << 20;

  void Open();
  void Close();  // Take returns false once everything was taken

  // Stamps the event. Does nothing while closed.
  void Push(TraceEvent event, std::string_view name, std::string_view error, const Clock& clock);

  // Waits for `patience`, or until the queue is half full or closed, then swaps everything that is
  // there into the empty `batch`. Nobody signals in between, so that Push makes no system call.
  bool Take(TraceBatch& batch, Duration patience);

 private:
  std::mutex mutex_;
  std::condition_variable half_full_or_closed_;
  bool open_ = false;
  TraceBatch batch_;
};

}  // namespace hora
