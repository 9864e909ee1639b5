#include "hora/queue/tensor_queue.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "hora/base/format.h"

namespace hora {

namespace {

std::size_t BytesOf(const TensorEntry& entry) {
  std::size_t bytes = entry.input.nbytes();
  for (const TensorPair& pair : entry.rest) bytes += pair.input.nbytes();
  return bytes;
}

}  // namespace

Status TensorQueue::Push(TensorEntry entry) {
  const TimePoint now = SteadyClock::Instance().Now();
  const std::lock_guard lock(mutex_);
  if (!closed_.ok()) return closed_;
  Request request = entry.request;
  if (joined_) {
    return Error(StatusCode::kInvalidArgument,
                 "{} '{}': this rank has joined and has no more data; wait for its join to finish "
                 "first",
                 ToString(request.params.kind), request.name);
  }
  const std::size_t bytes = BytesOf(entry);
  const auto [position, inserted] =
      entries_.try_emplace(request.name, Pended{std::move(entry), now});
  if (!inserted) {
    return Error(StatusCode::kInvalidArgument,
                 "{} '{}': an operation of this name is still running on this rank; wait for its "
                 "handle first, or give this one another name",
                 ToString(request.params.kind), request.name);
  }
  joined_ = request.params.kind == OpKind::kJoin;
  fresh_.push_back(std::move(request));
  fresh_bytes_.fetch_add(bytes);
  fresh_count_.store(fresh_.size());
  pending_count_.store(entries_.size());
  return Status::Ok();
}

void TensorQueue::Drain(std::vector<Request>& fresh) {
  if (!has_fresh()) return;
  const std::lock_guard lock(mutex_);
  if (fresh.empty()) {
    fresh.swap(fresh_);
  } else {
    for (Request& request : fresh_) fresh.push_back(std::move(request));
    fresh_.clear();
  }
  fresh_bytes_.store(0);
  fresh_count_.store(0);
}

TensorEntry* TensorQueue::Find(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto position = entries_.find(name);
  return position == entries_.end() ? nullptr : &position->second.entry;
}

std::shared_ptr<Handle> TensorQueue::Remove(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto position = entries_.find(name);
  if (position == entries_.end()) return nullptr;
  TensorEntry& entry = position->second.entry;
  if (entry.request.params.kind == OpKind::kJoin) joined_ = false;
  std::shared_ptr<Handle> handle = std::move(entry.handle);
  entries_.erase(position);
  pending_count_.store(entries_.size());
  return handle;
}

std::vector<std::shared_ptr<Handle>> TensorQueue::Close(Status status) {
  std::vector<std::shared_ptr<Handle>> open;
  const std::lock_guard lock(mutex_);
  if (closed_.ok()) closed_ = std::move(status);
  for (auto& [name, pended] : entries_) open.push_back(std::move(pended.entry.handle));
  entries_.clear();
  fresh_.clear();
  fresh_bytes_.store(0);
  fresh_count_.store(0);
  pending_count_.store(0);
  return open;
}

std::vector<PendingOperation> TensorQueue::Pending() const {
  std::vector<PendingOperation> pending;
  {
    const std::lock_guard lock(mutex_);
    pending.reserve(entries_.size());
    for (const auto& [name, pended] : entries_) {
      pending.push_back({pended.entry.request.params.kind, name, pended.since});
    }
  }
  std::sort(pending.begin(), pending.end(), [](const auto& a, const auto& b) {
    return std::tie(a.since, a.name) < std::tie(b.since, b.name);
  });
  return pending;
}

}  // namespace hora
