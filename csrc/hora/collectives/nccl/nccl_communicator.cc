#include "hora/collectives/nccl/nccl_communicator.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/wait.h"

namespace hora {
namespace {

constexpr Duration kFarewell = std::chrono::seconds(5);    // for what is under way in the end
constexpr Duration kNap = std::chrono::microseconds(200);  // between two questions to NCCL
constexpr WaitPolicy kPolls{.spins = 100, .yield_for = std::chrono::microseconds(50)};

nccl::Config NonBlocking() {
  return {.size = sizeof(nccl::Config),
          .magic = nccl::kConfigMagic,
          .version = nccl::kConfigVersion,
          .blocking = 0,
          .cga_cluster_size = nccl::kUndefined,
          .min_ctas = nccl::kUndefined,
          .max_ctas = nccl::kUndefined,
          .net_name = nullptr,
          .split_share = nccl::kUndefined};
}

bool IsTaken(nccl::Result result) {
  return result == nccl::Result::kSuccess || result == nccl::Result::kInProgress;
}

StatusCode CodeOf(nccl::Result result) {
  switch (result) {
    case nccl::Result::kSystemError:
    case nccl::Result::kRemoteError:
      return StatusCode::kPeerFailed;
    case nccl::Result::kInvalidArgument:
    case nccl::Result::kInvalidUsage:
      return StatusCode::kInvalidArgument;
    default:
      return StatusCode::kInternal;
  }
}

std::string_view HintFor(nccl::Result result) {
  switch (result) {
    case nccl::Result::kRemoteError:
      return "a rank has ended or cannot be reached: look at the others first";
    case nccl::Result::kInvalidUsage:
      return "two ranks on one GPU need NCCL 2.30 with NCCL_MULTI_RANK_GPU_ENABLE=1";
    default:
      return "NCCL_DEBUG=WARN shows more";
  }
}

// What NCCL says besides, in the form of an addition.
std::string LastError(const nccl::Api& api, nccl::Comm comm) {
  const char* const last = api.get_last_error(comm);
  return last == nullptr || *last == '\0' ? "" : fmt::format(" ({})", last);
}

// The id of rank 0, or why there is none: others need not wait for it then.
constexpr char kHasId = 'i', kHasNone = 'e';

Result<nccl::UniqueId> ReadId(const std::string& told) {
  nccl::UniqueId id;
  if (!told.empty() && told[0] == kHasNone) {
    return Fail(Status(StatusCode::kPeerFailed, told.substr(1)));
  }
  if (told.size() != 1 + sizeof(id) || told[0] != kHasId) {
    return Fail(Error(StatusCode::kInternal, "what came as the group's id is no id of NCCL"));
  }
  std::memcpy(id.internal, told.data() + 1, sizeof(id));
  return id;
}

std::string MakeId(const nccl::Api& api, int rank) {
  nccl::UniqueId id{};
  const nccl::Result made = api.get_unique_id(&id);
  if (made == nccl::Result::kSuccess) return kHasId + std::string(id.internal, sizeof(id));
  std::string why = kHasNone + fmt::format("rank {} got no id: {}{}", rank,
                                           api.get_error_string(made), LastError(api, nullptr));
  why.resize(std::min(why.size(), kMaxSharedIdBytes));
  return why;
}

}  // namespace

struct NcclCommunicator::Handle {
  std::mutex mutex;
  nccl::Comm comm = nullptr;            // mutex; null once aborted
  Status failure;                       // mutex
  std::atomic<std::uint32_t> ended{0};  // what a waiting thread sleeps on
};

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(
    std::shared_ptr<const NcclLibrary> library, const ShareId& share_id,
    NcclCommunicatorOptions options) {
  std::unique_ptr<NcclCommunicator> made(
      new NcclCommunicator(std::move(library), std::move(options), nullptr));
  constexpr std::string_view kWhat = "cannot form a group";
  const TimePoint deadline = made->Deadline();
  const NcclCommunicatorOptions& wanted = made->options_;
  const nccl::Api& api = made->library_->api();
  const Result<std::string> told =
      share_id(wanted.rank == 0 ? MakeId(api, wanted.names.Of(0)) : "", deadline);
  const Result<nccl::UniqueId> id = told ? ReadId(*told) : Fail(told.error());
  if (!id) {
    return Fail(Error(id.error().code(), "{} {}: {}", made->Where(), kWhat, id.error().message()));
  }
  nccl::Config config = NonBlocking();
  {
    const std::lock_guard lock(made->handle_->mutex);
    nccl::Comm& comm = made->handle_->comm;
    const nccl::Result begun = api.init_rank_config(&comm, wanted.size, *id, wanted.rank, &config);
    if (!IsTaken(begun)) return Fail(made->Failed(kWhat, begun));
  }
  if (Status status = made->AwaitReady(kWhat, deadline); !status.ok()) return Fail(status);
  return made;
}

NcclCommunicator::NcclCommunicator(std::shared_ptr<const NcclLibrary> library,
                                   NcclCommunicatorOptions options, nccl::Comm comm)
    : library_(std::move(library)),
      options_(std::move(options)),
      handle_(std::make_shared<Handle>()) {
  handle_->comm = comm;
}

NcclCommunicator::~NcclCommunicator() {
  const nccl::Api& api = library_->api();
  {
    const std::lock_guard lock(handle_->mutex);
    if (handle_->comm == nullptr) return;
    if (const nccl::Result begun = api.finalize(handle_->comm); !IsTaken(begun)) {
      static_cast<void>(Failed("cannot end a group", begun));
      return;
    }
  }
  const TimePoint deadline = SteadyClock::Instance().Now() + std::min(kFarewell, options_.patience);
  if (!AwaitReady("cannot end a group", deadline).ok()) return;
  const std::lock_guard lock(handle_->mutex);
  if (handle_->comm != nullptr) api.destroy(std::exchange(handle_->comm, nullptr));
}

std::string NcclCommunicator::Where() const {
  RankSet ranks;
  for (int rank = 0; rank < options_.size; ++rank) ranks.Add(options_.names.Of(rank));
  return fmt::format("NCCL, rank {} (cuda:{}) of '{}', ranks {}:", options_.names.Of(options_.rank),
                     options_.device, options_.name, ranks.ToString());
}

Status NcclCommunicator::Failed(std::string_view what, nccl::Result result) {
  Handle& handle = *handle_;
  if (!handle.failure.ok()) return handle.failure;
  const nccl::Api& api = library_->api();
  handle.failure =
      Error(CodeOf(result), "{} {}: {}{}; {}", Where(), what, api.get_error_string(result),
            LastError(api, handle.comm), HintFor(result));
  if (handle.comm != nullptr) api.abort(std::exchange(handle.comm, nullptr));
  return handle.failure;
}

void NcclCommunicator::Abort(const Status& cause) {
  Handle& handle = *handle_;
  const std::lock_guard lock(handle.mutex);
  if (handle.failure.ok()) {
    handle.failure = Error(cause.code(), "{} aborted: {}", Where(), cause.message());
  }
  if (handle.comm != nullptr) library_->api().abort(std::exchange(handle.comm, nullptr));
  handle.ended = 1;
  FutexWakeAll(handle.ended);
}

// Until NCCL says that what was asked of it is through.
Status NcclCommunicator::AwaitReady(std::string_view what, TimePoint deadline) {
  Handle& handle = *handle_;
  const auto ask = [&]() -> std::optional<Status> {
    const std::lock_guard lock(handle.mutex);
    if (handle.comm == nullptr) return handle.failure;
    nccl::Result state = nccl::Result::kSuccess;
    const nccl::Result asked = library_->api().get_async_error(handle.comm, &state);
    if (asked != nccl::Result::kSuccess) state = asked;
    if (state == nccl::Result::kInProgress) return std::nullopt;
    return state == nccl::Result::kSuccess ? Status::Ok() : Failed(what, state);
  };
  std::optional<Status> outcome;
  if (SpinUntil(kPolls, [&] { return (outcome = ask()).has_value(); })) return *outcome;
  while (true) {
    const TimePoint now = SteadyClock::Instance().Now();
    const Status lost = options_.lost ? options_.lost() : Status::Ok();
    if (!lost.ok()) {
      Abort(lost);
    } else if (now >= deadline) {
      Abort(Error(StatusCode::kTimeout,
                  "{}: not within {} s; some rank has not come, or cannot be reached "
                  "(NCCL_DEBUG=INFO shows which interface is used, NCCL_SOCKET_IFNAME chooses one)",
                  what, std::chrono::duration<double>(options_.patience).count()));
    }
    if ((outcome = ask())) return *outcome;
    FutexWait(handle.ended, 0, now + kNap);
  }
}

Status NcclCommunicator::Enqueue(std::string_view what, const Start& start) {
  {
    const std::lock_guard lock(handle_->mutex);
    if (handle_->comm == nullptr) return handle_->failure;
    const nccl::Api& api = library_->api();
    nccl::Result begun = api.group_start();
    if (begun == nccl::Result::kSuccess) {
      begun = start(api, handle_->comm);
      // Also after a failure: the group belongs to the thread, and would swallow what comes next.
      const nccl::Result ended = api.group_end();
      if (IsTaken(begun)) begun = ended;
    }
    if (begun == nccl::Result::kSuccess) return Status::Ok();
    if (begun != nccl::Result::kInProgress) return Failed(what, begun);
  }
  return AwaitReady(what, Deadline());
}

Status NcclCommunicator::Check() {
  const Status lost = options_.lost ? options_.lost() : Status::Ok();
  if (!lost.ok()) Abort(lost);
  const std::lock_guard lock(handle_->mutex);
  if (handle_->comm == nullptr) return handle_->failure;
  nccl::Result state = nccl::Result::kSuccess;
  const nccl::Result asked = library_->api().get_async_error(handle_->comm, &state);
  if (asked != nccl::Result::kSuccess) state = asked;
  return IsTaken(state) ? Status::Ok() : Failed("operations under way failed", state);
}

std::shared_ptr<void> NcclCommunicator::Register(std::byte* memory, std::size_t bytes) {
  const nccl::Api& api = library_->api();
  if (api.register_buffer == nullptr || api.deregister_buffer == nullptr) return nullptr;
  const std::lock_guard lock(handle_->mutex);
  if (handle_->comm == nullptr) return nullptr;
  void* registration = nullptr;
  if (api.register_buffer(handle_->comm, memory, bytes, &registration) != nccl::Result::kSuccess ||
      registration == nullptr) {
    return nullptr;
  }
  return {registration, [library = library_, handle = handle_](void* given) {
            const std::lock_guard own(handle->mutex);  // what has ended took it along
            if (handle->comm != nullptr) library->api().deregister_buffer(handle->comm, given);
          }};
}

template <class Begin>
Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::MakePart(
    std::string_view what, Begin begin, NcclCommunicatorOptions options) {
  nccl::Config config = NonBlocking();
  nccl::Comm part = nullptr;
  {
    const std::lock_guard lock(handle_->mutex);
    if (handle_->comm == nullptr) return Fail(handle_->failure);
    const nccl::Result begun = begin(library_->api(), handle_->comm, &part, &config);
    if (!IsTaken(begun)) return Fail(Failed(what, begun));
  }
  // NCCL writes `part` until the parent is ready, or has been aborted.
  if (Status status = AwaitReady(what, Deadline()); !status.ok()) {
    if (part != nullptr) library_->api().abort(part);
    return Fail(status);
  }
  if (part == nullptr) {
    return Fail(Error(StatusCode::kInternal, "{} {}: NCCL made no part", Where(), what));
  }
  std::unique_ptr<NcclCommunicator> made(new NcclCommunicator(library_, std::move(options), part));
  if (Status status = made->AwaitReady(what, made->Deadline()); !status.ok()) return Fail(status);
  return made;
}

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Split(int color,
                                                                  NcclCommunicatorOptions options) {
  const auto begin = [color, key = options.rank](const nccl::Api& api, nccl::Comm comm,
                                                 nccl::Comm* part, nccl::Config* config) {
    return api.split(comm, color, key, part, config);
  };
  return MakePart("cannot split a group", begin, std::move(options));
}

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Shrink(
    std::vector<int> leaving, NcclCommunicatorOptions options) {
  constexpr std::string_view kWhat = "cannot shrink a group";
  if (library_->api().shrink == nullptr) {
    return Fail(Error(StatusCode::kInvalidArgument, "{} {}: {} is older than 2.27", Where(), kWhat,
                      library_->description()));
  }
  if (std::ranges::find(leaving, options_.rank) != leaving.end()) {
    return Fail(Error(StatusCode::kInvalidArgument, "{} {}: this rank is among those that leave",
                      Where(), kWhat));
  }
  const auto begin = [&](const nccl::Api& api, nccl::Comm comm, nccl::Comm* part,
                         nccl::Config* config) {
    return api.shrink(comm, leaving.data(), static_cast<int>(leaving.size()), part, config,
                      nccl::kShrinkAbort);
  };
  auto rest = MakePart(kWhat, begin, std::move(options));
  // Its other ranks may be gone: it cannot end in peace.
  if (rest) Abort(Error(StatusCode::kPeerFailed, "{}: the group has shrunk", Where()));
  return rest;
}

}  // namespace hora
