#include "hora/engine/rank_device.h"

#include <algorithm>
#include <utility>

#include "hora/base/format.h"
#include "hora/cuda/beside_capture.h"

namespace hora {

RankDevice::RankDevice(int rank, int local_rank, std::size_t pinned_bytes, Open open)
    : rank_(rank), local_rank_(local_rank), pinned_bytes_(pinned_bytes), open_(std::move(open)) {}

// What is missing once stays missing: CUDA does not look for devices a second time either.
Status RankDevice::OpenOnce() {
  if (opened_) return *opened_;
  Result<std::shared_ptr<DeviceRuntime>> runtime = open_();
  if (!runtime) {
    opened_ = Error(runtime.error().code(), "rank {}: {}", rank_, runtime.error().message());
    return *opened_;
  }
  if ((*runtime)->device_count() < 1) {
    opened_ = Error(StatusCode::kResource, "rank {}: there is no GPU for this process ({})", rank_,
                    (*runtime)->description());
    return *opened_;
  }
  runtime_ = std::move(*runtime);
  pinned_ = std::make_shared<PinnedPool>(runtime_, pinned_bytes_);
  opened_ = Status::Ok();
  return *opened_;
}

Status RankDevice::Choose(int index) {
  const std::lock_guard lock(mutex_);
  return ChooseLocked(index);
}

Status RankDevice::ChooseLocked(int index) {
  if (index_ == index) return Status::Ok();
  if (Status status = OpenOnce(); !status.ok()) return status;
  const int count = runtime_->device_count();
  if (index < 0 || index >= count) {
    return Error(StatusCode::kInvalidArgument,
                 "rank {}: there is no cuda:{}; this process has {} (CUDA_VISIBLE_DEVICES may hide "
                 "others)",
                 rank_, index, count == 1 ? "cuda:0" : fmt::format("cuda:0 to cuda:{}", count - 1));
  }
  if (index_) {
    return Error(StatusCode::kInvalidArgument,
                 "rank {} works on cuda:{}, and cannot on cuda:{} besides: a rank has one GPU, "
                 "which hvd.set_device() chooses before the first operation",
                 rank_, *index_, index);
  }
  events_ = std::make_shared<EventPool>(runtime_, index);
  index_ = index;
  return Status::Ok();
}

Result<int> RankDevice::Chosen() {
  const std::lock_guard lock(mutex_);
  if (index_) return *index_;
  if (Status status = OpenOnce(); !status.ok()) return Fail(std::move(status));
  const int turn = local_rank_ % runtime_->device_count();
  if (Status status = ChooseLocked(turn); !status.ok()) return Fail(std::move(status));
  return turn;
}

std::optional<int> RankDevice::index() const {
  const std::lock_guard lock(mutex_);
  return index_;
}

Result<std::shared_ptr<DeviceRuntime>> RankDevice::runtime() {
  const std::lock_guard lock(mutex_);
  if (Status status = OpenOnce(); !status.ok()) return Fail(std::move(status));
  return runtime_;
}

std::shared_ptr<PinnedPool> RankDevice::pinned() const {
  const std::lock_guard lock(mutex_);
  return pinned_;
}

Result<EventPool::Lease> RankDevice::Mark(DeviceStream stream) {
  if (const Result<int> chosen = Chosen(); !chosen) return Fail(chosen.error());
  std::shared_ptr<EventPool> events;
  {
    const std::lock_guard lock(mutex_);
    events = events_;
  }
  Result<EventPool::Lease> mark = events->Take();
  if (!mark) return mark;
  if (Status status = runtime_->Record(**mark, stream); !status.ok()) {
    return Fail(std::move(status));
  }
  return mark;
}

void RankDevice::SetAllocator(Allocate allocate, GiveBack give_back) {
  const std::lock_guard lock(mutex_);
  allocate_ = std::move(allocate);
  give_back_ = std::move(give_back);
}

void RankDevice::MakeMemoryRoom() {
  GiveBack give_back;
  std::optional<int> device;
  std::shared_ptr<DeviceRuntime> runtime;
  {
    const std::lock_guard lock(mutex_);
    give_back = give_back_;
    device = index_;
    runtime = runtime_;
  }
  if (!give_back || !device) return;
  const BesideCapture beside(*runtime);
  give_back(*device);
}

Result<std::shared_ptr<std::byte>> RankDevice::AllocateResult(std::size_t bytes,
                                                              DeviceStream stream) {
  const Result<int> device = Chosen();
  if (!device) return Fail(device.error());
  Allocate allocate;
  std::shared_ptr<DeviceRuntime> runtime;
  {
    const std::lock_guard lock(mutex_);
    allocate = allocate_;
    runtime = runtime_;
  }
  if (allocate) {
    const BesideCapture beside(*runtime);  // PyTorch's looks at its own streams only
    return allocate(*device, bytes, stream);
  }
  Result<std::byte*> memory = runtime->AllocateDevice(*device, std::max<std::size_t>(bytes, 1));
  if (!memory) return Fail(std::move(memory.error()));
  return std::shared_ptr<std::byte>(*memory,
                                    [runtime](std::byte* each) { runtime->FreeDevice(each); });
}

}  // namespace hora
