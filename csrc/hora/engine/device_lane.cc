#include "hora/engine/device_lane.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/collectives/hierarchical/device_hierarchy.h"
#include "hora/cuda/beside_capture.h"
#include "hora/cuda/current_device.h"
#include "hora/engine/lane_texts.h"

namespace hora {
namespace {

// What the device gets to come to an end before its streams are left to it.
constexpr Duration kLongestFarewell = std::chrono::seconds(5);

TimePoint Now() { return SteadyClock::Instance().Now(); }

Result<std::shared_ptr<const NcclLibrary>> OpenNccl(const std::string& file) {
  // Whoever names a file wants no other.
  return file.empty() ? NcclLibrary::Open({"libnccl.so.2"}) : NcclLibrary::Open({file}, file);
}

}  // namespace

void LeaveToDevice(std::shared_ptr<void> what) {
  static auto* const left = new std::vector<std::shared_ptr<void>>();  // never destroyed
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  left->push_back(std::move(what));
}

// What goes last stands first.
struct DeviceLane::Opened {
  struct Marked {
    EventPool::Lease mark;
    TimePoint since;  // when nothing was before it any more
  };

  Opened(std::shared_ptr<DeviceRuntime> of, int device, OwnedStream own, const MakeRoom& make_room)
      : runtime(std::move(of)),
        index(device),
        stream(std::move(own)),
        scratch(runtime, device, make_room) {}

  const std::shared_ptr<DeviceRuntime> runtime;
  const int index;
  OwnedStream stream;
  DeviceBuffer scratch;
  std::unique_ptr<StagedBackend> staged;
  std::unique_ptr<CollectiveBackend> direct;  // NCCL's, or layers with it; null: staged is all
  NcclBackend* nccl = nullptr;                // in that

  std::mutex mutex;
  std::deque<Marked> marks;  // mutex
};

struct DeviceLane::Opening {
  std::unique_ptr<Opened> opened;  // null: there is a problem
  std::shared_ptr<const NcclLibrary> library;
  std::unique_ptr<NcclCommunicator> communicator;
  DeviceChoice choice;
};

DeviceLane::DeviceLane(CollectiveBackend& host, std::shared_ptr<RankDevice> device,
                       DeviceLaneOptions options)
    : host_(host), device_(std::move(device)), options_(std::move(options)) {}

DeviceLane::~DeviceLane() {
  const TimePoint now = Now();
  BeginEnd();
  AwaitEnd(now + farewell() / 2);
  Close(now + farewell());
}

Duration DeviceLane::farewell() const { return std::min(kLongestFarewell, options_.patience / 2); }

void DeviceLane::BeginEnd() {
  is_closed_ = true;
  const std::shared_ptr<Opened> opened = this->opened();
  if (opened != nullptr && opened->nccl != nullptr) opened->nccl->BeginEnd();
}

void DeviceLane::AwaitEnd(TimePoint until) {
  const std::shared_ptr<Opened> opened = this->opened();
  if (opened == nullptr || opened->nccl == nullptr) return;  // nothing can be aborted
  if (!IsPast(*opened, until)) opened->nccl->Abort(Closed());
  // Streams of the callers may have operations of NCCL's besides.
  opened->nccl->AwaitEnd(until);
}

bool DeviceLane::Close(TimePoint deadline) {
  is_closed_ = true;
  std::shared_ptr<Opened> opened;
  {
    const std::lock_guard lock(mutex_);
    opened = std::move(opened_);
  }
  if (opened == nullptr) return true;
  const bool is_past = IsPast(*opened, deadline);
  const bool has_ended = opened->nccl == nullptr || opened->nccl->End(deadline);
  marked_.store(0);
  unmarked_.store(false);
  if (is_past && has_ended) return true;
  // The device may go on writing for ever, and nobody else may get that memory.
  Log(LogLevel::kWarning, options_.names.Of(options_.rank),
      fmt::format("cuda:{} does not come to an end with what {} has put on it; its memory is left "
                  "to it",
                  opened->index, options_.name));
  LeaveToDevice(std::move(opened));
  return false;
}

Status DeviceLane::Closed() const {
  return Error(StatusCode::kShutDown, "rank {}: {} has ended", options_.names.Of(options_.rank),
               options_.name);
}

// A lost device does nothing any more.
bool DeviceLane::IsPast(Opened& opened, TimePoint until) const {
  const Result<EventPool::Lease> end = device_->Mark(opened.stream.get());
  const Status status = end ? opened.runtime->Await(**end, until) : end.error();
  return status.ok() || status.code() == StatusCode::kInternal;
}

Status DeviceLane::Open() {
  if (is_closed_) return Closed();
  if (is_open_) return Status::Ok();
  Opening opening;
  const DeviceCard mine = Prepare(opening);
  const Result<std::vector<std::string>> texts = Exchange(mine.ToText());
  if (!texts) return texts.error();
  std::vector<DeviceCard> cards;
  for (const std::string& text : *texts) {
    Result<DeviceCard> card = DeviceCard::FromText(text);
    if (!card) return card.error();
    cards.push_back(std::move(*card));
  }
  Result<DeviceChoice> choice =
      ChooseDeviceEngine(cards, options_.names, options_.layout, options_.flat);
  if (!choice) {
    refusal_ = choice.error();
    is_open_ = true;
    return Status::Ok();
  }
  opening.choice = std::move(*choice);
  if (opening.choice.engine != DeviceEngine::kStaged) {
    if (Status status = AgreeOnNccl(opening, CreateNccl(opening)); !status.ok()) return status;
  }
  is_open_ = true;
  if (!refusal_.ok()) return Status::Ok();
  MakeBackends(opening);
  LogChoice(opening);
  {
    const std::lock_guard lock(mutex_);
    opened_ = std::move(opening.opened);
  }
  // Whoever has lost the group meanwhile found nothing to abort.
  const Status lost = options_.lost ? options_.lost() : Status::Ok();
  if (!lost.ok()) Abort(lost);
  return lost;
}

void DeviceLane::MakeBackends(Opening& opening) {
  Opened& opened = *opening.opened;
  std::unique_ptr<NcclBackend> nccl;
  if (opening.communicator != nullptr) {
    NcclBackendOptions options{.call_alone = options_.config.nccl_alone,
                               .make_room = [device = device_] { device->MakeMemoryRoom(); }};
    nccl = std::make_unique<NcclBackend>(opened.runtime, opened.index,
                                         std::move(opening.communicator), std::move(options));
    opened.nccl = nccl.get();
  }
  opened.staged = Staged(opened, host_, options_.rank, options_.names);
  if (opening.choice.engine != DeviceEngine::kLayers) {
    opened.direct = std::move(nccl);
    return;
  }
  const HostLayout& layout = options_.layout;
  std::unique_ptr<CollectiveBackend> across;
  if (options_.across != nullptr) {
    across = Staged(opened, *options_.across, layout.host_of(options_.rank),
                    options_.names.Part(layout.lane_of(layout.local_of(options_.rank))));
  }
  opened.direct = std::make_unique<DeviceHierarchy>(layout, options_.rank, std::move(nccl),
                                                    std::move(across), *opened.staged);
}

std::unique_ptr<StagedBackend> DeviceLane::Staged(Opened& opened, CollectiveBackend& inner,
                                                  int rank, RankNames names) const {
  StagingOptions options{.rank = rank,
                         .names = std::move(names),
                         .patience = options_.patience,
                         .lost = options_.lost,
                         .interruption = options_.interruption};
  // A copy down may wait for what NCCL will never do.
  if (opened.nccl != nullptr) options.lost = [nccl = opened.nccl] { return nccl->Check(); };
  return std::make_unique<StagedBackend>(opened.runtime, opened.index, device_->pinned(), inner,
                                         std::move(options));
}

// Nothing of it may fail for this rank alone: the others wait for its card.
DeviceCard DeviceLane::Prepare(Opening& opening) {
  DeviceCard card{.wanted = options_.config.backend};
  const Result<int> index = device_->Chosen();
  if (!index) {
    card.problem = index.error().message();
    return card;
  }
  const std::shared_ptr<DeviceRuntime> runtime = device_->runtime().value();
  const Result<DeviceFacts> facts = runtime->Facts(*index);
  Result<OwnedStream> stream = OwnedStream::Create(runtime, *index, /*urgent=*/true);
  const Status current = CurrentDevice(*runtime, *index).status();  // as NCCL will want it
  if (!facts || !stream || !current.ok()) {
    card.problem = (!facts ? facts.error() : !stream ? stream.error() : current).message();
    return card;
  }
  card.uuid = facts->uuid;
  opening.opened = std::make_unique<Opened>(runtime, *index, std::move(*stream),
                                            [device = device_] { device->MakeMemoryRoom(); });
  if (options_.config.backend == "staged") return card;
  Result<std::shared_ptr<const NcclLibrary>> library = OpenNccl(options_.config.nccl_library);
  if (library) {
    opening.library = std::move(*library);
    card.nccl_version = opening.library->version();
  } else {
    card.no_nccl = library.error().message();
  }
  return card;
}

// Over all ranks of the set, or in layers over those of this host.
Status DeviceLane::CreateNccl(Opening& opening) {
  const HostLayout& layout = options_.layout;
  NcclCommunicatorOptions group{
      .rank = options_.rank,
      .size = layout.size(),
      .device = opening.opened->index,
      .names = options_.names,
      .name = options_.name,
      // Who has failed waits for the others to say so, too.
      .patience = options_.patience / 2,
      .lost = options_.lost,
      .enter =
          [runtime = opening.opened->runtime, index = opening.opened->index] {
            static_cast<void>(runtime->MakeCurrent(index));
            runtime->ExchangeCaptureMode(
                CaptureMode::kRelaxed);  // the thread has nothing else to do
          },
      .farewell = farewell() / 2};
  std::string key = "nccl/" + options_.key;
  if (opening.choice.engine == DeviceEngine::kLayers) {
    const int host = layout.host_of(options_.rank);
    group.rank = layout.local_of(options_.rank);
    group.size = layout.size_of(host);
    group.names = options_.names.Part(layout.ranks_of(host));
    key += fmt::format(".{}", host);
  }
  ShareId share = [this](const std::string& mine, TimePoint) -> Result<std::string> {
    Result<std::vector<std::string>> said = Exchange(mine);
    if (!said) return Fail(std::move(said.error()));
    return std::move(said->front());
  };
  if (options_.store != nullptr) {
    share = OverStore(options_.store, std::move(key), group.rank == 0, options_.lost);
  }
  const CurrentDevice current(*opening.opened->runtime, opening.opened->index);
  if (!current.status().ok()) return current.status();
  const BesideCapture beside(*opening.opened->runtime);
  auto created = NcclCommunicator::Create(opening.library, share, std::move(group));
  if (!created) return created.error();
  opening.communicator = std::move(*created);
  return Status::Ok();
}

Status DeviceLane::AgreeOnNccl(Opening& opening, const Status& mine) {
  const Result<std::vector<std::string>> all = Exchange(mine.message());
  if (!all) return all.error();
  const auto failed = std::ranges::find_if(*all, [](const auto& text) { return !text.empty(); });
  if (failed == all->end()) return Status::Ok();
  if (opening.communicator != nullptr) {  // to end it in peace would take the others
    opening.communicator->Abort(Status(StatusCode::kPeerFailed, *failed));
    opening.communicator.reset();
  }
  opening.choice = {.engine = DeviceEngine::kStaged, .why = *failed};
  if (options_.config.backend == "nccl") {
    refusal_ = Error(StatusCode::kResource,
                     "HORA_GPU_BACKEND=nccl asks for NCCL, which does not work: {}. "
                     "HORA_GPU_BACKEND=auto goes through the host's memory instead",
                     *failed);
  }
  return Status::Ok();
}

void DeviceLane::LogChoice(const Opening& opening) const {
  if (options_.rank != 0) return;
  const std::string what = fmt::format("GPU tensors of {} go ", options_.name);
  const int rank = options_.names.Of(options_.rank);
  const std::string& why = opening.choice.why;
  if (opening.choice.engine == DeviceEngine::kNccl) {
    Log(LogLevel::kInfo, rank, what + "by " + opening.library->description());
  } else if (opening.choice.engine == DeviceEngine::kLayers) {
    Log(LogLevel::kInfo, rank,
        fmt::format("{}by {} inside hosts, and through their memory between them", what,
                    opening.library->description()));
  } else if (why.empty()) {
    Log(LogLevel::kInfo, rank, what + "through the host's memory");
  } else {
    Log(LogLevel::kWarning, rank, what + "through the host's memory: " + why);
  }
}

Result<std::vector<std::string>> DeviceLane::Exchange(std::string_view mine) {
  static_assert(DeviceCard::kBytes >= kMaxSharedIdBytes);
  return ExchangeOnLane(host_, options_.rank, options_.layout.size(), mine, DeviceCard::kBytes);
}

Device DeviceLane::device() const {
  return {.type = DeviceType::kCuda, .index = static_cast<std::int16_t>(opened_->index)};
}

DeviceStream DeviceLane::stream() const {
  hora::Check(opened_ != nullptr, "a lane is used between Open and Close");
  return opened_->stream.get();
}

Status DeviceLane::StartAfter(const EventPool::Lease& ready) {
  if (opened_ == nullptr) return Closed();
  if (ready == nullptr) return Status::Ok();
  return opened_->runtime->Wait(stream(), *ready);
}

CollectiveBackend& DeviceLane::BackendFor(const OpParams& params) {
  if (opened_->direct != nullptr && opened_->direct->Supports(params)) return *opened_->direct;
  return *opened_->staged;
}

Result<EventPool::Lease> DeviceLane::Mark() {
  if (opened_ == nullptr) return Fail(Closed());
  Result<EventPool::Lease> mark = device_->Mark(stream());
  if (!mark) return mark;
  Opened& opened = *opened_;
  const std::lock_guard lock(opened.mutex);
  if (Status status = DropDone(opened); !status.ok()) return Fail(std::move(status));
  opened.marks.push_back({*mark, Now()});
  marked_.store(opened.marks.size());
  return mark;
}

void DeviceLane::LeaveUnmarked() {
  if (opened_ != nullptr && opened_->nccl != nullptr) unmarked_.store(true);
}

// A device that cannot even mark it is lost, and does nothing any more.
EventPool::Lease DeviceLane::MarkRest() {
  if (opened_ == nullptr) return nullptr;
  return device_->Mark(stream()).value_or(nullptr);
}

Result<std::span<std::byte>> DeviceLane::Scratch(std::size_t bytes) {
  Result<std::span<std::byte>> memory = opened_->scratch.Reserve(bytes);
  if (memory) return memory;
  return Fail(Error(memory.error().code(), "rank {}: {}", options_.names.Of(options_.rank),
                    memory.error().message()));
}

Result<std::shared_ptr<std::byte>> DeviceLane::AllocateResult(std::size_t bytes) {
  if (opened_ == nullptr) return Fail(Closed());
  return device_->AllocateResult(bytes, stream());
}

std::shared_ptr<DeviceLane::Opened> DeviceLane::opened() const {
  const std::lock_guard lock(mutex_);
  return opened_;
}

// opened.mutex held. One stream comes to its marks in their order.
Status DeviceLane::DropDone(Opened& opened) {
  while (!opened.marks.empty()) {
    const Result<bool> done = opened.runtime->IsDone(*opened.marks.front().mark);
    if (!done) return done.error();
    if (!*done) break;
    opened.marks.pop_front();
    if (!opened.marks.empty()) opened.marks.front().since = Now();
  }
  marked_.store(opened.marks.size());
  return Status::Ok();
}

Status DeviceLane::Check() {
  const std::shared_ptr<Opened> opened = this->opened();
  if (opened == nullptr) return Status::Ok();
  Status status;
  std::optional<TimePoint> since;  // none: nothing was marked
  {
    const std::lock_guard lock(opened->mutex);
    status = DropDone(*opened);
    if (status.ok() && !needs_watch()) return status;
    if (status.ok() && !opened->marks.empty()) since = opened->marks.front().since;
  }
  if (status.ok() && opened->nccl != nullptr) status = opened->nccl->Check();
  if (status.ok() && options_.lost) status = options_.lost();
  if (status.ok() && since && Now() - *since > options_.patience) {
    status = Error(StatusCode::kStalled,
                   "rank {}: cuda:{} has not come to the end of an operation of {} for {:.3g} s: a "
                   "kernel before it hangs, or a rank has not put the operation on its device",
                   options_.names.Of(options_.rank), opened->index, options_.name,
                   std::chrono::duration<double>(options_.patience).count());
  }
  if (!status.ok()) Abort(status);
  return status;
}

void DeviceLane::Abort(const Status& cause) {
  const std::shared_ptr<Opened> opened = this->opened();
  if (opened != nullptr && opened->nccl != nullptr) opened->nccl->Abort(cause);
}

}  // namespace hora
