#include "hora/bindings/gradient_collector.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "hora/base/clock.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"
#include "hora/bindings/tensor_access.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// How long a signal that arrives while this thread spins may go unnoticed.
constexpr Duration kSignalCheckInterval = std::chrono::milliseconds(100);

// Interned once; attributes are then found without hashing.
PyObject* Name(const char* text) { return PyUnicode_InternFromString(text); }

py::object Attribute(py::handle object, PyObject* name) {
  PyObject* value = PyObject_GetAttr(object.ptr(), name);
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

py::object GradientOf(py::handle parameter) {
  static PyObject* const kGrad = Name("grad");
  return Attribute(parameter, kGrad);
}

void SetGradient(py::handle parameter, py::handle gradient) {
  static PyObject* const kGrad = Name("grad");
  if (PyObject_SetAttr(parameter.ptr(), kGrad, gradient.ptr()) != 0) throw py::error_already_set();
}

long VersionOf(py::handle gradient) {
  static PyObject* const kVersion = Name("_version");
  return PyLong_AsLong(Attribute(gradient, kVersion).ptr());
}

// The gradient's memory if its values can be reduced there; null where Python has to see to it.
std::optional<TensorView> DirectMemory(py::handle gradient) {
  static PyObject* const kRequiresGrad = Name("requires_grad");
  if (Attribute(gradient, kRequiresGrad).ptr() != Py_False) return std::nullopt;
  std::optional<TensorView> memory = ReadPlainTensor(gradient);
  if (memory && !IsFloatingPoint(memory->dtype)) return std::nullopt;
  return memory;
}

py::object ExceptionOf(const Status& status) {
  if (status.ok()) return py::none();
  try {
    Raise(status);
  } catch (const py::error_already_set& error) {
    return error.value();
  }
}

}  // namespace

void GradientCollector::Add(py::object parameter, bool direct) {
  Slot& added = slots_.emplace_back();
  added.parameter = std::move(parameter);
  added.passes_left = passes_;
  added.direct = direct;
}

void GradientCollector::SetView(std::size_t index, py::object view) {
  Slot& placed = slot(index);
  placed.view_memory = ReadTensor(view);
  placed.view = std::move(view);
  if (placed.state != State::kNoted || !IsOurs(placed)) return;
  PutIntoView(index);
  Note(slot(index));
}

void GradientCollector::SetPasses(int passes) {
  passes_ = passes;
  Forget();
}

void GradientCollector::OnGradient(std::size_t index) {
  if (slot(index).passes_left == 0) {
    options_.on_overrun(index);
    return;
  }
  reduced = false;
  if (slot(index).view) PutIntoView(index);
  Slot& ready = slot(index);  // Python may have added slots meanwhile
  if (accumulates_only || --ready.passes_left > 0) return;
  if (!Note(ready) || !early) return;
  const bool may = ready.direct && FindSet();
  if (!may || !SubmitOne(ready, /*will_wait=*/false)) options_.on_ready(index);
  FlushIfLast();
}

bool GradientCollector::Note(Slot& slot) {
  py::object gradient = GradientOf(slot.parameter);
  if (gradient.is_none()) return false;
  slot.version = VersionOf(gradient);
  slot.gradient = std::move(gradient);
  Move(slot, State::kNoted);
  return true;
}

// One copy, while the gradient is still in the cache; then autograd adds to the view.
void GradientCollector::PutIntoView(std::size_t index) {
  Slot& placed = slot(index);
  const py::object gradient = GradientOf(placed.parameter);
  if (gradient.is(placed.view) || gradient.is_none()) return;
  const std::optional<TensorView> memory = DirectMemory(gradient);
  const TensorView& place = placed.view_memory;
  if (!memory || memory->device != place.device || memory->dtype != place.dtype ||
      memory->shape != place.shape) {
    options_.on_foreign(index);
    return;
  }
  std::memcpy(place.data, memory->data, memory->nbytes());
  SetGradient(placed.parameter, placed.view);
}

// Finds the process set, which stays the same until Forget. False when there is none.
bool GradientCollector::FindSet() {
  if (set_ != nullptr) return true;
  if (!HasEngine()) return false;
  Result<std::shared_ptr<ProcessSet>> found = CurrentEngine()->Find(options_.process_set);
  if (found) set_ = std::move(*found);
  return set_ != nullptr;
}

bool GradientCollector::SubmitOne(Slot& slot, bool will_wait) {
  std::optional<TensorView> memory =
      slot.gradient.is(slot.view) ? slot.view_memory : DirectMemory(slot.gradient);
  if (!memory) return false;
  TensorEntry entry;
  entry.request.name = slot.key;
  entry.request.params = options_.params;
  entry.request.params.dtype = memory->dtype;
  entry.request.params.shape = memory->shape;
  entry.request.params.device = memory->device;
  std::shared_ptr<DeviceUse> device;
  if (memory->device.type == DeviceType::kCuda) {
    auto use = DeviceUse::Begin(CurrentEngine()->device(), memory->device.index,
                                StreamQueryOf(slot.gradient), entry.ready);
    if (!use) return false;  // Python will find out why
    device = std::move(*use);
  }
  auto handle = std::make_shared<Handle>(slot.key);
  entry.handle = handle;
  entry.input = *memory;
  entry.output = std::move(*memory);
  if (!set_->Submit(std::move(entry), will_wait).ok()) return false;  // as above
  slot.handle.emplace(set_, std::move(handle), slot.gradient, py::none(), std::move(device));
  Move(slot, State::kUnderWay);
  return true;
}

std::size_t GradientCollector::Submit() {
  std::size_t under_way = 0;
  for (Slot& slot : slots_) {
    if (slot.state == State::kNoted) {
      const bool may = slot.direct && FindSet();
      if (!may || !SubmitOne(slot, /*will_wait=*/true)) Move(slot, State::kAwaited);
    }
    under_way += slot.state >= State::kUnderWay ? 1 : 0;
  }
  return under_way;
}

void GradientCollector::Wait() {
  DeviceEvent followed;  // gradients that were reduced together have one event
  for (Slot& slot : slots_) {
    if (!slot.handle) continue;
    const Handle& handle = slot.handle->handle();
    while (!handle.done()) {
      {
        const py::gil_scoped_release release;
        set_->Wait(handle, SteadyClock::Instance().Now() + kSignalCheckInterval);
      }
      if (!handle.done() && PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    followed = slot.handle->FollowOnStream(followed);
  }
}

bool GradientCollector::IsOurs(const Slot& slot) {
  return GradientOf(slot.parameter).is(slot.gradient) && VersionOf(slot.gradient) == slot.version;
}

py::list GradientCollector::Troubles() const {
  py::list troubles;
  for (std::size_t index = 0; index < slots_.size(); ++index) {
    const Slot& slot = slots_[index];
    if (slot.state != State::kUnderWay) continue;
    const Status& status = slot.handle->handle().status();
    const bool is_ours = IsOurs(slot);
    if (!is_ours || !status.ok()) {
      troubles.append(py::make_tuple(index, is_ours, ExceptionOf(status)));
    }
  }
  return troubles;
}

py::list GradientCollector::Gradients() const {
  py::list gradients;
  for (const Slot& slot : slots_) {
    if (slot.state == State::kUnderWay) gradients.append(slot.gradient);
  }
  return gradients;
}

void GradientCollector::Take(std::size_t index) {
  slot(index).gradient = {};
  Move(slot(index), State::kTaken);
}

bool GradientCollector::IsUnderWay(std::size_t index) const {
  return slots_.at(index).state >= State::kUnderWay;
}

void GradientCollector::Forget() {
  last_pending_ = pending_;
  for (Slot& slot : slots_) {
    slot.passes_left = passes_;
    slot.handle.reset();
    slot.gradient = {};
    slot.state = State::kAwaited;
  }
  pending_ = 0;
  set_.reset();
}

void GradientCollector::StartOver() {
  for (Slot& slot : slots_) {
    if (slot.state >= State::kUnderWay) continue;
    slot.passes_left = passes_;
    Move(slot, State::kAwaited);
  }
}

void GradientCollector::Move(Slot& slot, State state) {
  pending_ -= slot.state != State::kAwaited ? 1 : 0;
  pending_ += state != State::kAwaited ? 1 : 0;
  slot.state = state;
  if (state == State::kAwaited) slot.gradient = {};
}

// As many as in the step before: the backward pass has no more of them, so the engine need not wait
// for company. A wrong guess costs a few microseconds.
void GradientCollector::FlushIfLast() {
  if (pending_ == last_pending_ && set_ != nullptr) set_->Flush();
}

}  // namespace hora::bindings
