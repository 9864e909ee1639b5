#include "hora/bindings/bound_handle.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "hora/base/format.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// How long a signal that arrives while this thread spins may go unnoticed.
constexpr Duration kSignalCheckInterval = std::chrono::milliseconds(100);

// Tensors of operations whose handle Python has dropped; guarded by the GIL, never destroyed.
struct Orphan {
  std::shared_ptr<Handle> handle;
  py::object input;
  py::object output;
};

std::vector<Orphan>& Orphans() {
  static auto* orphans = new std::vector<Orphan>();
  return *orphans;
}

void ReleaseFinishedOrphans() {
  // Moved out first: dropping a tensor may run Python code that comes back here.
  std::vector<Orphan> finished;
  auto& orphans = Orphans();
  const auto open = std::stable_partition(
      orphans.begin(), orphans.end(), [](const Orphan& orphan) { return !orphan.handle->done(); });
  std::move(open, orphans.end(), std::back_inserter(finished));
  orphans.erase(open, orphans.end());
}

TimePoint DeadlineAfter(std::optional<double> seconds) {
  constexpr double kForever = 1e9;
  if (!seconds || *seconds >= kForever) return TimePoint::max();
  const std::chrono::duration<double> patience(std::max(*seconds, 0.0));
  return SteadyClock::Instance().Now() + std::chrono::duration_cast<Duration>(patience);
}

}  // namespace

BoundHandle::BoundHandle(std::shared_ptr<ProcessSet> set, std::shared_ptr<Handle> handle,
                         py::object input, py::object output)
    : set_(std::move(set)),
      handle_(std::move(handle)),
      input_(std::move(input)),
      output_(std::move(output)) {
  if (!Orphans().empty()) ReleaseFinishedOrphans();
}

BoundHandle::~BoundHandle() {
  if (handle_ == nullptr || handle_->done()) return;
  Orphans().push_back({std::move(handle_), std::move(input_), std::move(output_)});
}

void BoundHandle::Wait(std::optional<double> timeout_seconds) {
  const TimePoint deadline = DeadlineAfter(timeout_seconds);
  while (!handle_->done()) {
    const TimePoint now = SteadyClock::Instance().Now();
    if (now >= deadline) {
      Raise(Error(StatusCode::kTimeout, "'{}' was not done within {} s; it goes on, wait again",
                  handle_->name(), *timeout_seconds));
    }
    {
      const py::gil_scoped_release release;
      set_->Wait(*handle_, std::min(deadline, now + kSignalCheckInterval));
    }
    if (!handle_->done() && PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  input_ = output_ = py::object();
  RaiseIfError(handle_->status());
}

}  // namespace hora::bindings
