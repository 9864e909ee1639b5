#include "hora/collectives/staged/transfers.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

// How long a wait for the device looks at nothing else.
constexpr Duration kGlance = std::chrono::milliseconds(1);
// What a device gets to come to its end after a failure, of which it may be the reason.
constexpr Duration kLastWait = std::chrono::seconds(1);
// From here on a copy of its own, by the device's copy engine, costs less than a share of a kernel.
constexpr std::uint64_t kLargeCopy = 64u << 10;

TimePoint Now() { return std::chrono::steady_clock::now(); }

}  // namespace

Transfers::Transfers(std::shared_ptr<DeviceRuntime> runtime, int device,
                     std::shared_ptr<PinnedPool> pinned, const StagingOptions& options)
    : runtime_(std::move(runtime)),
      device_(device),
      pinned_(std::move(pinned)),
      options_(options),
      events_(std::make_shared<EventPool>(runtime_, device_)) {}

Transfers::~Transfers() {
  if (!down_) return;
  const TimePoint deadline = Now() + (failed_ ? std::min(kLastWait, options_.patience)  //
                                              : options_.patience);
  const bool down_ends = ComesToAnEnd(down_->get(), deadline);
  const bool up_ends = ComesToAnEnd(up_->get(), deadline);
  if (down_ends && up_ends) return;
  // Whoever got this memory next would see it change.
  for (std::deque<StagingArea>* const areas : {&present_, &earlier_}) {
    for (StagingArea& area : *areas) static_cast<void>(area.memory.release());
  }
  static_cast<void>(new OwnedStream(std::move(*down_)));
  static_cast<void>(new OwnedStream(std::move(*up_)));
}

// A lost device does nothing any more; of any other error it is not known.
bool Transfers::ComesToAnEnd(DeviceStream stream, TimePoint deadline) noexcept {
  const Result<EventPool::Lease> end = events_->Take();
  Status status = end ? runtime_->Record(**end, stream) : end.error();
  if (status.ok()) status = runtime_->Await(**end, deadline);
  return status.ok() || status.code() == StatusCode::kInternal;
}

Status Transfers::Open() {
  Result<OwnedStream> down = OwnedStream::Create(runtime_, device_, /*urgent=*/true);
  if (!down) return down.error();
  Result<OwnedStream> up = OwnedStream::Create(runtime_, device_, /*urgent=*/true);
  if (!up) return up.error();
  down_ = std::move(*down);
  up_ = std::move(*up);
  return Status::Ok();
}

Status Transfers::Begin(const CollectiveCall& call) {
  operation_ = ToString(call.params.kind);
  bytes_ = 0;
  for (const ByteStream& stream : call.outputs) bytes_ += stream.size();
  last_up_.reset();
  if (!down_) {
    if (Status status = Open(); !status.ok()) return OfDevice(status);
  }
  while (!earlier_.empty()) {
    const EventPool::Lease& used = earlier_.front().used;
    const Result<bool> done = used ? runtime_->IsDone(*used) : true;
    if (!done) return OfDevice(done.error());
    if (!*done) break;
    earlier_.pop_front();
  }
  const Result<EventPool::Lease> ready = events_->Take();
  if (!ready) return OfDevice(ready.error());
  Status status = runtime_->Record(**ready, call.stream);
  if (status.ok()) status = runtime_->Wait(down_->get(), **ready);
  if (status.ok()) status = runtime_->Wait(up_->get(), **ready);
  return OfDevice(status);
}

Status Transfers::End(DeviceStream stream) {
  if (last_up_) {  // what went down has been waited for
    if (Status status = runtime_->Wait(stream, *last_up_); !status.ok()) return OfDevice(status);
  }
  for (const StagingArea& area : earlier_) {
    if (Status status = Await(area); !status.ok()) return status;
  }
  earlier_.clear();
  earlier_.swap(present_);
  return Status::Ok();
}

void Transfers::Abandon(DeviceStream stream) noexcept {
  failed_ = true;
  if (!down_) return;
  for (const DeviceStream own : {down_->get(), up_->get()}) {
    const Result<EventPool::Lease> end = events_->Take();
    if (!end || !runtime_->Record(**end, own).ok()) return;  // the first error is told
    if (!runtime_->Wait(stream, **end).ok()) return;
  }
}

Result<StagingArea*> Transfers::Take(std::size_t bytes) {
  StagingArea area;
  if (bytes != 0) {
    Result<PinnedPool::Piece> memory = pinned_->Take(bytes);
    if (!memory) return Fail(OfDevice(memory.error()));
    area.memory = std::move(*memory);
  }
  return &present_.emplace_back(std::move(area));
}

Status Transfers::Down(std::span<const PieceCopy> copies, StagingArea& area) {
  if (copies.empty()) return Status::Ok();
  if (area.used) {
    if (Status status = runtime_->Wait(down_->get(), *area.used); !status.ok()) {
      return OfDevice(status);
    }
  }
  return Copy(copies, area, down_->get());
}

Status Transfers::Up(std::span<const PieceCopy> copies, StagingArea& area) {
  if (copies.empty()) return Status::Ok();
  Status status = Copy(copies, area, up_->get());
  if (status.ok()) last_up_ = area.used;
  return status;
}

Status Transfers::Copy(std::span<const PieceCopy> copies, StagingArea& area, DeviceStream stream) {
  const bool together = copies.size() > 1;
  small_.clear();
  for (const PieceCopy& copy : copies) {
    if (together && copy.elements < kLargeCopy) {
      small_.push_back(copy);
      continue;
    }
    if (Status status = runtime_->Copy(copy.to, copy.from, copy.elements, stream); !status.ok()) {
      return OfDevice(status);
    }
  }
  if (!small_.empty()) {
    const ElementCopy bytes{.from = DType::kUInt8, .to = DType::kUInt8};
    if (Status status = runtime_->CopyMany(small_, bytes, stream); !status.ok()) {
      return OfDevice(status);
    }
  }
  Result<EventPool::Lease> used = events_->Take();
  if (!used) return OfDevice(used.error());
  if (Status status = runtime_->Record(**used, stream); !status.ok()) return OfDevice(status);
  area.used = std::move(*used);
  return Status::Ok();
}

Status Transfers::Await(const StagingArea& area) {
  if (!area.used) return Status::Ok();
  const TimePoint deadline = Now() + options_.patience;
  while (true) {
    const TimePoint now = Now();
    Status status = runtime_->Await(*area.used, std::min(deadline, now + kGlance));
    if (status.ok()) return status;
    if (status.code() != StatusCode::kTimeout) return OfDevice(status);
    if (options_.lost) {
      if (Status ended = options_.lost(); !ended.ok()) return ended;
    }
    if (options_.interruption.wanted && options_.interruption.wanted()) {
      if (Status ended = options_.interruption.give_way(); !ended.ok()) return ended;
    }
    if (now < deadline) continue;
    return OfDevice(Error(StatusCode::kStalled,
                          "nothing was copied for {:.3g} s, so what is on the stream before may "
                          "never end; a kernel that hangs or waits for another rank does that",
                          std::chrono::duration<double>(options_.patience).count()));
  }
}

Status Transfers::OfDevice(Status status) const {
  if (status.ok()) return status;
  const bool lost = status.code() == StatusCode::kInternal;
  return Error(status.code(), "rank {}: {} of {} bytes through the host's memory, device {}: {}{}",
               options_.names.Of(options_.rank), operation_, bytes_, device_, status.message(),
               lost ? "; this process cannot use the device any more: look for Xid errors in the "
                      "kernel's log, and start the job again"
                    : "");
}

}  // namespace hora
