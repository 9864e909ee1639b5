#include "simulated_device/simulated_stream.h"

#include <algorithm>
#include <utility>

#include "hora/base/format.h"

namespace hora {

// --- SimulatedCapture ----------------------------------------------------------------------------

void SimulatedCapture::Add(const SimulatedStream* stream, SimulatedWork work) {
  const std::lock_guard lock(mutex_);
  work_.push_back(std::move(work));
  ++streams_[stream].works;
}

std::uint64_t SimulatedCapture::CountOf(const SimulatedStream* stream) {
  const std::lock_guard lock(mutex_);
  return streams_[stream].works;
}

void SimulatedCapture::Join(const SimulatedStream* stream, std::uint64_t count) {
  const std::lock_guard lock(mutex_);
  Recorded& recorded = streams_[stream];
  recorded.joined = std::max(recorded.joined, count);
}

void SimulatedCapture::Invalidate(std::string why) {
  const std::lock_guard lock(mutex_);
  if (invalid_.empty()) invalid_ = std::move(why);
}

Result<SimulatedGraph> SimulatedCapture::End(const SimulatedStream* origin) {
  const std::lock_guard lock(mutex_);
  for (const auto& [stream, recorded] : streams_) {
    if (stream != origin && recorded.joined < recorded.works && invalid_.empty()) {
      invalid_ = "nothing waits for what another stream has recorded";
    }
  }
  if (!invalid_.empty()) {
    return Fail(Error(StatusCode::kInvalidArgument, "the capture is not valid: {}", invalid_));
  }
  return std::make_shared<const std::vector<SimulatedWork>>(std::exchange(work_, {}));
}

// --- SimulatedStream -----------------------------------------------------------------------------

SimulatedStream::SimulatedStream(int device) : device_(device), thread_([this] { Work(); }) {}

SimulatedStream::~SimulatedStream() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    held_ = false;
  }
  changed_.notify_all();
  thread_.join();
}

void SimulatedStream::Put(SimulatedWork work) {
  {
    const std::lock_guard lock(mutex_);
    if (const CaptureRef capture = capture_.lock()) return capture->Add(this, std::move(work));
    work_.push_back(std::move(work));
  }
  changed_.notify_all();
}

void SimulatedStream::SetHeld(bool held) {
  {
    const std::lock_guard lock(mutex_);
    held_ = held;
  }
  changed_.notify_all();
}

void SimulatedStream::SetCapture(CaptureRef capture) {
  const std::lock_guard lock(mutex_);
  capture_ = std::move(capture);
}

CaptureRef SimulatedStream::capture() {
  const std::lock_guard lock(mutex_);
  return capture_.lock();
}

void SimulatedStream::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return (!held_ && !work_.empty()) || (ended_ && work_.empty()); });
    if (work_.empty()) return;
    SimulatedWork next = std::move(work_.front());
    work_.pop_front();
    lock.unlock();
    next();
    next = nullptr;  // what it has goes before anything else happens
    lock.lock();
  }
}

// --- SimulatedEvent ------------------------------------------------------------------------------

void SimulatedEvent::Record(SimulatedStream& stream) {
  const CaptureRef capture = stream.capture();
  std::unique_lock lock(state_->mutex);
  state_->captured = capture != nullptr;
  state_->capture = capture;
  state_->stream = &stream;
  if (capture != nullptr) {
    state_->works = capture->CountOf(&stream);
    return;
  }
  const std::uint64_t record = ++state_->recorded;
  lock.unlock();
  stream.Put([state = state_, record] {
    const std::lock_guard reaching(state->mutex);
    state->reached = std::max(state->reached, record);
    state->changed.notify_all();
  });
}

Status SimulatedEvent::LetWait(SimulatedStream& stream) const {
  const CaptureRef own = stream.capture();
  std::unique_lock lock(state_->mutex);
  if (state_->captured) {
    const CaptureRef others = state_->capture.lock();
    if (others == nullptr || (own != nullptr && own != others)) {
      if (own != nullptr) own->Invalidate("a stream waits for an event of another capture");
      return Error(StatusCode::kResource, "the event belongs to another capture");
    }
    others->Join(state_->stream, state_->works);
    if (own == nullptr) stream.SetCapture(others);
    return Status::Ok();
  }
  const std::uint64_t record = state_->recorded;
  if (record == 0) return Status::Ok();
  if (own != nullptr) {
    own->Invalidate("a stream waits for an event that was recorded outside");
    return Error(StatusCode::kResource, "the event was recorded outside of the capture");
  }
  lock.unlock();
  stream.Put([state = state_, record] {
    std::unique_lock waiting(state->mutex);
    state->changed.wait(waiting, [&] { return state->reached >= record; });
  });
  return Status::Ok();
}

Status SimulatedEvent::NotCaptured() const {
  if (!state_->captured) return Status::Ok();
  if (const CaptureRef capture = state_->capture.lock()) {
    capture->Invalidate("the host asks for an event of it");
  }
  return Error(StatusCode::kResource, "an event of a capture never comes");
}

Result<bool> SimulatedEvent::IsDone() const {
  const std::lock_guard lock(state_->mutex);
  if (Status status = NotCaptured(); !status.ok()) return Fail(status);
  return state_->reached >= state_->recorded;
}

Result<bool> SimulatedEvent::AwaitUntil(TimePoint deadline) const {
  std::unique_lock lock(state_->mutex);
  if (Status status = NotCaptured(); !status.ok()) return Fail(status);
  return state_->changed.wait_until(lock, deadline,
                                    [&] { return state_->reached >= state_->recorded; });
}

}  // namespace hora
