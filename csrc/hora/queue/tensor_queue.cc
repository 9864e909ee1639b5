#include "hora/queue/tensor_queue.h"

#include <utility>

#include "hora/base/format.h"

namespace hora {

Status TensorQueue::Push(TensorEntry entry) {
  const std::lock_guard lock(mutex_);
  if (!closed_.ok()) return closed_;
  Request request = entry.request;
  const std::size_t bytes = entry.input.nbytes();
  const auto [position, inserted] = entries_.try_emplace(request.name, std::move(entry));
  if (!inserted) {
    return Error(StatusCode::kInvalidArgument,
                 "{} '{}': an operation of this name is still running on this rank; wait for its "
                 "handle first, or give this one another name",
                 ToString(request.params.kind), request.name);
  }
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
  return position == entries_.end() ? nullptr : &position->second;
}

std::shared_ptr<Handle> TensorQueue::Remove(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto position = entries_.find(name);
  if (position == entries_.end()) return nullptr;
  std::shared_ptr<Handle> handle = std::move(position->second.handle);
  entries_.erase(position);
  pending_count_.store(entries_.size());
  return handle;
}

std::vector<std::shared_ptr<Handle>> TensorQueue::Close(Status status) {
  std::vector<std::shared_ptr<Handle>> open;
  const std::lock_guard lock(mutex_);
  if (closed_.ok()) closed_ = std::move(status);
  for (auto& [name, entry] : entries_) open.push_back(std::move(entry.handle));
  entries_.clear();
  fresh_.clear();
  fresh_bytes_.store(0);
  fresh_count_.store(0);
  pending_count_.store(0);
  return open;
}

std::vector<std::string> TensorQueue::PendingNames() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

}  // namespace hora
