#include "hora/collectives/nccl/nccl_communicator.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/base/wait.h"

namespace hora {
namespace {

constexpr Duration kGlance = std::chrono::milliseconds(10);  // at the group, while it ends
constexpr WaitPolicy kPolls{.spins = 100, .yield_for = std::chrono::microseconds(50)};

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

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(
    std::shared_ptr<const NcclLibrary> library, const ShareId& share_id,
    NcclCommunicatorOptions options) {
  std::unique_ptr<NcclCommunicator> made(
      new NcclCommunicator(std::move(library), std::move(options)));
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
  {
    const auto draft = std::make_shared<NcclDraft>();
    const NcclComm::Turn turn = made->comm_->TakeTurn();
    const nccl::Result begun =
        api.init_rank_config(&draft->comm, wanted.size, *id, wanted.rank, &draft->config);
    if (!IsTaken(begun)) return Fail(made->Failed(kWhat, begun));
    made->comm_->Begin(draft);
  }
  if (Status status = made->AwaitReady(kWhat, wanted.patience, deadline); !status.ok()) {
    return Fail(status);
  }
  return made;
}

NcclCommunicator::NcclCommunicator(std::shared_ptr<const NcclLibrary> library,
                                   NcclCommunicatorOptions options)
    : library_(std::move(library)),
      options_(std::move(options)),
      comm_(std::make_shared<NcclComm>(library_, options_.enter)) {}

NcclCommunicator::~NcclCommunicator() { End(); }

bool NcclCommunicator::End() {
  const auto now = [] { return SteadyClock::Instance().Now(); };
  BeginEnd();
  AwaitEnd(now() + std::min(options_.farewell, options_.patience));
  return End(now() + options_.farewell);
}

void NcclCommunicator::BeginEnd() { comm_->Finish(); }

void NcclCommunicator::AwaitEnd(TimePoint until) {
  const auto now = [] { return SteadyClock::Instance().Now(); };
  while (!is_left_ && !comm_->is_lost() && !comm_->AwaitEnd(std::min(until, now() + kGlance))) {
    const Status lost = options_.lost ? options_.lost() : Status::Ok();
    if (!lost.ok()) {
      Abort(lost);
    } else if (now() >= until) {
      Abort(Status(StatusCode::kTimeout, "a stream or a graph still has operations of it"));
    }
  }
}

bool NcclCommunicator::End(TimePoint deadline) {
  if (is_left_) return false;
  if (comm_->AwaitEnd(deadline)) return true;
  is_left_ = true;
  Log(LogLevel::kWarning, options_.names.Of(options_.rank),
      fmt::format("{}; NCCL does not come to an end of it, so that is left to itself with all it "
                  "has of the GPU",
                  comm_->failure().message()));
  return false;
}

std::string NcclCommunicator::Where() const {
  RankSet ranks;
  for (int rank = 0; rank < options_.size; ++rank) ranks.Add(options_.names.Of(rank));
  return fmt::format("NCCL, rank {} (cuda:{}) of '{}', ranks {}:", options_.names.Of(options_.rank),
                     options_.device, options_.name, ranks.ToString());
}

Status NcclCommunicator::Failed(std::string_view what, nccl::Result result) {
  const nccl::Api& api = library_->api();
  comm_->Lose(Error(CodeOf(result), "{} {}: {}{}; {}", Where(), what, api.get_error_string(result),
                    LastError(api, comm_->get()), HintFor(result)));
  return comm_->failure();
}

void NcclCommunicator::Abort(const Status& cause) {
  if (comm_->is_lost()) return;
  comm_->Lose(Error(cause.code(), "{} aborted: {}", Where(), cause.message()));
}

// Until NCCL says that what was asked of it is through.
Status NcclCommunicator::AwaitReady(std::string_view what, Duration patience, TimePoint deadline) {
  const auto ask = [&]() -> std::optional<Status> {
    const NcclComm::Turn turn = comm_->TakeTurn();
    const nccl::Comm comm = comm_->get();
    if (comm == nullptr) return comm_->failure();
    nccl::Result state = nccl::Result::kSuccess;
    const nccl::Result asked = library_->api().get_async_error(comm, &state);
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
                  what, std::chrono::duration<double>(patience).count()));
    }
    if ((outcome = ask())) return *outcome;
    comm_->SleepUnlessLost(now + kNcclNap);
  }
}

Status NcclCommunicator::AwaitCall(std::string_view what) {
  const Duration patience = options_.call_patience.value_or(options_.patience);
  return AwaitReady(what, patience, SteadyClock::Instance().Now() + patience);
}

Status NcclCommunicator::Enqueue(std::string_view what, const Start& start) {
  {
    const NcclComm::Turn turn = comm_->TakeTurn();
    const nccl::Comm comm = comm_->get();
    if (comm == nullptr) return comm_->failure();
    const nccl::Api& api = library_->api();
    nccl::Result begun = api.group_start();
    if (begun == nccl::Result::kSuccess) {
      begun = start(api, comm);
      // Also after a failure: the group belongs to the thread, and would swallow what comes next.
      const nccl::Result ended = api.group_end();
      if (IsTaken(begun)) begun = ended;
    }
    if (begun == nccl::Result::kSuccess) return Status::Ok();
    if (begun != nccl::Result::kInProgress) return Failed(what, begun);
  }
  return AwaitCall(what);
}

Status NcclCommunicator::Check() {
  const Status lost = options_.lost ? options_.lost() : Status::Ok();
  if (!lost.ok()) Abort(lost);
  if (comm_->is_lost()) return comm_->failure();
  const NcclComm::Turn turn = comm_->TryTurn();
  const nccl::Comm comm = turn.owns_lock() ? comm_->get() : nullptr;
  if (comm == nullptr) return comm_->failure();
  nccl::Result state = nccl::Result::kSuccess;
  const nccl::Result asked = library_->api().get_async_error(comm, &state);
  if (asked != nccl::Result::kSuccess) state = asked;
  return IsTaken(state) ? Status::Ok() : Failed("operations under way failed", state);
}

Result<std::shared_ptr<void>> NcclCommunicator::Register(std::byte* memory, std::size_t bytes) {
  const nccl::Api& api = library_->api();
  if (api.register_buffer == nullptr || api.deregister_buffer == nullptr) return nullptr;
  const NcclComm::Turn turn = comm_->TakeTurn();
  const nccl::Comm comm = comm_->get();
  if (comm == nullptr) return Fail(comm_->failure());
  void* registration = nullptr;
  const nccl::Result made = api.register_buffer(comm, memory, bytes, &registration);
  if (made != nccl::Result::kSuccess) {
    return Fail(Error(StatusCode::kResource, "{} cannot register {} bytes: {}{}; {}", Where(),
                      bytes, api.get_error_string(made), LastError(api, comm), HintFor(made)));
  }
  if (registration == nullptr) return nullptr;
  return std::shared_ptr<void>(registration, [of = comm_](void* given) {
    if (of->is_over()) return;  // what has ended takes it along
    const NcclComm::Turn own = of->TakeTurn();
    if (of->get() != nullptr) of->api().deregister_buffer(of->get(), given);
  });
}

template <class Begin>
Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::MakePart(
    std::string_view what, Begin begin, NcclCommunicatorOptions options) {
  const auto draft = std::make_shared<NcclDraft>();
  {
    const NcclComm::Turn turn = comm_->TakeTurn();
    const nccl::Comm comm = comm_->get();
    if (comm == nullptr) return Fail(comm_->failure());
    comm_->BeginPart(draft);
    const nccl::Result begun = begin(library_->api(), comm, *draft);
    if (!IsTaken(begun)) return Fail(Failed(what, begun));
  }
  // NCCL writes the draft until the parent is ready, or has been aborted.
  if (Status status = AwaitCall(what); !status.ok()) return Fail(status);
  std::unique_ptr<NcclCommunicator> made(new NcclCommunicator(library_, std::move(options)));
  {
    const NcclComm::Turn turn = comm_->TakeTurn();
    if (comm_->get() == nullptr) return Fail(comm_->failure());
    comm_->BeginPart(nullptr);
    if (draft->comm == nullptr) {
      return Fail(Error(StatusCode::kInternal, "{} {}: NCCL made no part", Where(), what));
    }
    made->comm_->Begin(draft);
  }
  const Duration patience = made->options_.patience;
  if (Status status = made->AwaitReady(what, patience, made->Deadline()); !status.ok()) {
    return Fail(status);
  }
  return made;
}

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Split(int color,
                                                                  NcclCommunicatorOptions options) {
  const auto begin = [color, key = options.rank](const nccl::Api& api, nccl::Comm comm,
                                                 NcclDraft& draft) {
    return api.split(comm, color, key, &draft.comm, &draft.config);
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
  const auto begin = [&](const nccl::Api& api, nccl::Comm comm, NcclDraft& draft) {
    draft.leaving = std::move(leaving);
    return api.shrink(comm, draft.leaving.data(), static_cast<int>(draft.leaving.size()),
                      &draft.comm, &draft.config, nccl::kShrinkAbort);
  };
  auto rest = MakePart(kWhat, begin, std::move(options));
  // Its other ranks may be gone: it cannot end in peace.
  if (rest) Abort(Error(StatusCode::kPeerFailed, "{}: the group has shrunk", Where()));
  return rest;
}

}  // namespace hora
