#include "hora/engine/bulk_lane.h"

#include <algorithm>
#include <utility>

namespace hora {
namespace {

TimePoint Now() { return SteadyClock::Instance().Now(); }

// A group counts as a whole, so that it stays together.
std::uint64_t BytesOf(const Response& response, int size) {
  const OpParams& params = response.params;
  std::uint64_t bytes = 0;
  for (std::size_t tensor = 0; tensor < params.tensor_count(); ++tensor) {
    const Shape& shape = params.shape_of(tensor);
    std::uint64_t elements = 0;
    if (params.kind == OpKind::kAllgather) {
      std::uint64_t rows = 0;
      for (std::size_t i = tensor; i < response.first_dims.size(); i += params.tensor_count()) {
        rows += static_cast<std::uint64_t>(response.first_dims[i]);
      }
      elements = rows * static_cast<std::uint64_t>(shape.elements_per_row()) /
                 static_cast<std::uint64_t>(size);
    } else {
      elements = static_cast<std::uint64_t>(shape.num_elements());
    }
    bytes += elements * SizeOf(params.dtype_of(tensor));
  }
  return bytes;
}

}  // namespace

bool WillBeBulk(const OpParams& params, std::uint64_t bytes, const Tuning& tuning) {
  if (params.kind == OpKind::kBarrier || params.kind == OpKind::kJoin) return false;
  if (IsOnDevice(params)) return true;
  if (params.priority != 0) return params.priority < 0;
  return params.kind == OpKind::kAlltoall || bytes > tuning.urgent_bytes;
}

bool IsBulk(const Response& response, int size, const Tuning& tuning) {
  if (!response.error.ok()) return false;
  return WillBeBulk(response.params, BytesOf(response, size), tuning);
}

void BulkLane::Add(Work work) {
  const std::lock_guard lock(backlog_mutex_);
  backlog_.push_back(std::move(work));
  open_.fetch_add(1);
}

std::optional<BulkLane::Work> BulkLane::Next() {
  const std::lock_guard lock(backlog_mutex_);
  if (backlog_.empty()) return std::nullopt;
  std::optional<Work> work = std::move(backlog_.front());
  backlog_.pop_front();
  return work;
}

Status BulkLane::Run(const std::function<bool()>& enough, const std::function<void()>& after_each) {
  // Looks again after it has let go: who adds work does not call anybody while one is running.
  while (needs_runner() && !enough()) {
    const std::unique_lock lock = TryLock();
    if (!lock.owns_lock()) break;
    running_.store(true);
    Status status;
    while (status.ok() && !enough()) {
      const std::optional<Work> work = Next();
      if (!work) break;
      status = Execute(*work);
      open_.fetch_sub(1);
      after_each();
    }
    running_.store(false);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

void BulkLane::Drop() {
  const std::lock_guard lock(backlog_mutex_);
  open_.fetch_sub(backlog_.size());
  backlog_.clear();
}

Status BulkLane::Execute(const Work& work) {
  if (work.tuning) executor_->Retune(*work.tuning);
  if (work.symmetric != nullptr) executor_->LookForSymmetricMemory(work.symmetric);
  if (work.agreed.empty()) return Status::Ok();
  const TimePoint began = timed_ ? Now() : TimePoint{};
  const std::uint64_t before = executor_->moved_bytes();
  Status status = executor_->Execute(work.agreed);
  // How long it takes to put something on a stream says nothing.
  const auto is_on_device = [](const Agreed& each) { return IsOnDevice(each->params); };
  if (timed_ && status.ok() && std::ranges::none_of(work.agreed, is_on_device)) {
    const std::lock_guard lock(backlog_mutex_);
    timings_.push_back({executor_->moved_bytes() - before, began, Now()});
  }
  return status;
}

std::vector<BulkLane::Timing> BulkLane::TakeTimings() {
  const std::lock_guard lock(backlog_mutex_);
  return std::exchange(timings_, {});
}

}  // namespace hora
