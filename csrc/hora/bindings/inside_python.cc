#include "hora/bindings/inside_python.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>

#include "hora/base/clock.h"
#include "hora/base/wait.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

constexpr Duration kPatience = std::chrono::seconds(10);  // with PyTorch's allocator, mostly
constexpr std::uint32_t kClosed = 1u << 31;

// How many are inside, and kClosed. No lock, which a fork could leave locked.
std::atomic<std::uint32_t> gate{0};

void Close(pid_t owner) {
  gate.fetch_or(kClosed);
  if (getpid() != owner) return;  // those who were inside are in the parent
  const py::gil_scoped_release release;
  const TimePoint deadline = SteadyClock::Instance().Now() + kPatience;
  for (std::uint32_t now = gate.load(); now != kClosed; now = gate.load()) {
    if (SteadyClock::Instance().Now() >= deadline) return;
    FutexWait(gate, now, deadline);
  }
}

}  // namespace

InsidePython::InsidePython() {
  std::uint32_t now = gate.load();
  do {
    if ((now & kClosed) != 0) return;
  } while (!gate.compare_exchange_weak(now, now + 1));
  gil_.emplace();
}

InsidePython::~InsidePython() {
  if (!ok()) return;
  gil_.reset();
  if (gate.fetch_sub(1) - 1 == kClosed) FutexWakeAll(gate);
}

void InsidePython::CloseAtExit() {
  const py::cpp_function close([owner = getpid()] { Close(owner); });
  py::module_::import("atexit").attr("register")(close);
}

}  // namespace hora::bindings
