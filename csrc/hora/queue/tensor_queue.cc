#include "hora/queue/tensor_queue.h"

#include <time.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

std::size_t BytesOf(const TensorEntry& entry) {
  std::size_t bytes = entry.input.nbytes();
  for (const TensorPair& pair : entry.rest) bytes += pair.input.nbytes();
  return bytes;
}

// Of the steady clock, for people who ask what takes so long: as of the last timer interrupt, which
// costs a fraction of the exact time.
TimePoint RoughlyNow() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return TimePoint(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

}  // namespace

Status TensorQueue::Push(TensorEntry&& entry) {
  const std::size_t bytes = BytesOf(entry);
  const TimePoint now = RoughlyNow();
  const std::lock_guard lock(mutex_);
  if (!closed_.ok()) return closed_;
  const Request& request = entry.request;
  if (joined_) {
    return Error(StatusCode::kInvalidArgument,
                 "{} '{}': this rank has joined and has no more data; wait for its join to finish "
                 "first",
                 ToString(request.params.kind), request.name);
  }
  entry.since = newest_ = std::max(now, newest_ + Duration(1));
  TensorEntry* const pending = entries_.Insert(std::move(entry));
  if (pending == nullptr) {
    return Error(StatusCode::kInvalidArgument,
                 "{} '{}': an operation of this name is still running on this rank; wait for its "
                 "handle first, or give this one another name",
                 ToString(request.params.kind), request.name);
  }
  joined_ = pending->request.params.kind == OpKind::kJoin;
  fresh_.push_back(pending);
  fresh_bytes_.store(fresh_bytes_.load(kRelaxed) + bytes, kRelaxed);
  pending_count_.store(entries_.size(), kRelaxed);
  fresh_count_.store(fresh_.size());
  return Status::Ok();
}

void TensorQueue::Drain(std::vector<TensorEntry*>& fresh) {
  if (!has_fresh()) return;
  const std::lock_guard lock(mutex_);
  if (fresh.empty()) {
    fresh.swap(fresh_);
  } else {
    fresh.insert(fresh.end(), fresh_.begin(), fresh_.end());
    fresh_.clear();
  }
  fresh_bytes_.store(0, kRelaxed);
  fresh_count_.store(0);
}

TensorEntry* TensorQueue::Find(std::string_view name) {
  const std::lock_guard lock(mutex_);
  return entries_.Find(name);
}

std::shared_ptr<Handle> TensorQueue::End(TensorEntry* entry) {
  if (entry->request.params.kind == OpKind::kJoin) joined_ = false;
  std::shared_ptr<Handle> handle = std::move(entry->handle);
  entries_.Erase(entry);
  return handle;
}

std::shared_ptr<Handle> TensorQueue::Remove(TensorEntry* entry) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Handle> handle = End(entry);
  pending_count_.store(entries_.size());
  return handle;
}

void TensorQueue::Remove(std::span<TensorEntry* const> entries,
                         std::vector<std::shared_ptr<Handle>>& handles) {
  handles.reserve(handles.size() + entries.size());  // no handle is lost for want of memory
  const std::lock_guard lock(mutex_);
  for (TensorEntry* const entry : entries) handles.push_back(End(entry));
  pending_count_.store(entries_.size());
}

void TensorQueue::Refuse(Status status) {
  const std::lock_guard lock(mutex_);
  if (closed_.ok()) closed_ = std::move(status);
}

std::vector<std::shared_ptr<Handle>> TensorQueue::Close(Status status) {
  std::vector<std::shared_ptr<Handle>> open;
  const std::lock_guard lock(mutex_);
  if (closed_.ok()) closed_ = std::move(status);
  entries_.ForEach([&](const TensorEntry& entry) { open.push_back(entry.handle); });
  entries_.Clear();
  fresh_.clear();
  fresh_bytes_.store(0, kRelaxed);
  fresh_count_.store(0);
  pending_count_.store(0);
  return open;
}

std::vector<PendingOperation> TensorQueue::Pending() const {
  std::vector<PendingOperation> pending;
  {
    const std::lock_guard lock(mutex_);
    pending.reserve(entries_.size());
    entries_.ForEach([&](const TensorEntry& entry) {
      pending.push_back({entry.request.params.kind, entry.request.name, entry.since});
    });
  }
  std::sort(pending.begin(), pending.end(), [](const auto& a, const auto& b) {
    return std::tie(a.since, a.name) < std::tie(b.since, b.name);
  });
  return pending;
}

}  // namespace hora
