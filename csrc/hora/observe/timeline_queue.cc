#include "hora/observe/timeline_queue.h"

#include <utility>

namespace hora {

void TraceBatch::Clear() {
  events.clear();
  text.clear();
  dropped = 0;
}

void TraceQueue::Open() {
  const std::lock_guard lock(mutex_);
  batch_.Clear();
  open_ = true;
}

void TraceQueue::Close() {
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  half_full_or_closed_.notify_all();
}

void TraceQueue::Push(TraceEvent event, std::string_view name, std::string_view error,
                      const Clock& clock) {
  const std::lock_guard lock(mutex_);
  if (!open_) return;
  if (batch_.events.size() >= kMaxEvents ||
      batch_.text.size() + name.size() + error.size() > kMaxText) {
    ++batch_.dropped;
    return;
  }
  event.time = clock.Now();  // here, so that the times of all threads ascend
  event.name_size = static_cast<std::uint32_t>(name.size());
  event.error_size = static_cast<std::uint32_t>(error.size());
  batch_.events.push_back(event);
  batch_.text.append(name).append(error);
  if (batch_.events.size() == kMaxEvents / 2) half_full_or_closed_.notify_one();
}

bool TraceQueue::Take(TraceBatch& batch, Duration patience) {
  std::unique_lock lock(mutex_);
  half_full_or_closed_.wait_for(
      lock, patience, [this] { return !open_ || batch_.events.size() >= kMaxEvents / 2; });
  std::swap(batch, batch_);
  return open_ || !batch.events.empty() || batch.dropped > 0;
}

}  // namespace hora
