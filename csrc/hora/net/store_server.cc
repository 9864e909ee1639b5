#include "hora/net/store_server.h"

#include <poll.h>

#include <algorithm>
#include <optional>
#include <random>
#include <utility>
#include <variant>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/net/store.h"
#include "hora/net/store_server_loop.h"

namespace hora {
namespace {

constexpr std::size_t kMostKeys = 65'536;
constexpr std::size_t kMostValueBytes = 256u << 20;  // of all keys
constexpr std::size_t kMostMembersKnownToForks = 4096;
// Answers leave a little before the patience ends, so that they are there in time.
constexpr Duration kLongestTravel = std::chrono::milliseconds(250);

static_assert(kMaxStoreKeyBytes + kMaxStoreValueBytes + 1024 <= kMaxStoreRequestBytes);

TimePoint Now() { return SteadyClock::Instance().Now(); }

TimePoint AnswerBy(std::uint32_t patience_ms) {
  const Duration patience = std::chrono::milliseconds(patience_ms);
  return Now() + patience - std::min<Duration>(patience / 8, kLongestTravel);
}

// Two stores of one job, one after the other, shall not give the same generation by accident.
std::uint64_t FirstGeneration() {
  std::random_device random;
  return (std::uint64_t{random()} << 16) + 1;
}

}  // namespace

StoreServer::Loop::Loop(std::unique_ptr<Reception> reception)
    : reception_(std::move(reception)),
      descriptors_(kMostMembersKnownToForks),
      gathering_(FirstGeneration()) {}

StoreServer::Loop::~Loop() { thread_.Stop(); }

Status StoreServer::Loop::Start() {
  return thread_.Start("hora-store", [this] {
    Run();
    SayGoodbye();
  });
}

void StoreServer::Loop::CloseInForkedChild() noexcept {
  reception_->CloseInForkedChild();
  descriptors_.CloseAll();
  thread_.CloseInForkedChild();
}

void StoreServer::Loop::Run() {
  std::vector<MemberId> ready;
  while (!thread_.stopping()) {
    const TimePoint now = WaitForEvents(ready);
    for (const MemberId id : ready) Serve(id);
    for (Newcomer& newcomer : reception_->Receive()) Welcome(std::move(newcomer));
    TellOfMisfit();
    ExpirePatience(now);
  }
}

// The others would wait in vain for a rank that this store turns away.
void StoreServer::Loop::TellOfMisfit() {
  const std::optional<Status> misfit = reception_->TakeMisfit();
  if (!misfit) return;
  Deliver(gathering_.Refuse(
      Error(misfit->code(), "the store at {} turned away a process of this job: {}",
            address().ToString(), misfit->message()),
      Now()));
}

// Sleeps until somebody has something to say, comes, or a patience ends.
TimePoint StoreServer::Loop::WaitForEvents(std::vector<MemberId>& ready) {
  std::vector<pollfd> watched{{thread_.wake_fd(), POLLIN, 0}, {reception_->fd(), POLLIN, 0}};
  const std::size_t first_member = watched.size();
  TimePoint deadline = reception_->deadline();
  for (const auto& [id, member] : members_) {
    const int events = POLLIN | (member.stream.is_sending() ? POLLOUT : 0);
    watched.push_back({member.stream.fd(), static_cast<short>(events), 0});
    if (member.waits != Waits::kNot) deadline = std::min(deadline, member.answer_by);
  }
  poll(watched.data(), watched.size(), PollTimeoutMs(deadline));
  if (watched[0].revents != 0) thread_.TakeWake();
  ready.clear();
  std::size_t place = first_member;
  for (const auto& entry : members_) {
    if (watched[place++].revents != 0) ready.push_back(entry.first);
  }
  return Now();
}

void StoreServer::Loop::Welcome(Newcomer newcomer) {
  if (newcomer.said.purpose.kind != Purpose::Kind::kStore) return;  // it has dialled a wrong port
  const MemberId id = next_id_++;
  descriptors_.Add(newcomer.channel.fd());
  members_.emplace(id,
                   Member{.stream = StoreStream(std::move(newcomer.channel), kMaxStoreRequestBytes),
                          .address = std::move(newcomer.address),
                          .rank = newcomer.said.rank,
                          .asked = {},
                          .answer_by = {},
                          .key = {}});
  Serve(id);  // what came with the end of its handshake
}

void StoreServer::Loop::Serve(MemberId id) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  const Result<bool> flushed = found->second.stream.Flush();
  Status status = flushed ? Listen(id, found->second) : flushed.error();
  if (status.ok()) return;
  // An end is how all of them leave; anything else is a broken member.
  if (status.code() != StatusCode::kPeerFailed) {
    Log(LogLevel::kWarning, -1,
        fmt::format("the store hangs up on {}: {}", found->second.address, status.message()));
  }
  Drop(id);
}

Status StoreServer::Loop::Listen(MemberId id, Member& member) {
  for (;;) {
    Result<std::optional<StoreMessage>> said = member.stream.Receive();
    if (!said) return said.error();
    if (!said->has_value()) return Status::Ok();
    if (member.waits != Waits::kNot || member.stream.is_sending()) {
      return Error(StatusCode::kInternal, "it asks before it has its last answer");
    }
    member.asked = Now();
    const Status status = std::visit(
        [&]<class Message>(Message& request) -> Status {
          if constexpr (requires { Handle(id, member, std::move(request)); }) {
            return Handle(id, member, std::move(request));
          } else {
            return Error(StatusCode::kInternal, "it sends answers, not requests");
          }
        },
        **said);
    if (!status.ok()) Answer(id, Refusal{status});
    if (!members_.contains(id)) return Status::Ok();
  }
}

Status StoreServer::Loop::Handle(MemberId id, Member& member, MeetRequest request) {
  if (request.tells.size() > kMaxStoreValueBytes) {
    return Error(StatusCode::kInvalidArgument, "rank {} tells {} bytes, at most {}", request.rank,
                 request.tells.size(), kMaxStoreValueBytes);
  }
  // Its end may not have been looked at yet.
  if (const auto claimed = gathering_.WaitingAs(request.rank); claimed) {
    const auto other = members_.find(*claimed);
    if (other != members_.end() && HasClosed(other->second.stream.fd())) {
      gathering_.Leave(*claimed);
    }
  }
  member.waits = Waits::kForMeeting;
  member.answer_by = AnswerBy(request.patience_ms);
  reception_->Expect(request.size);
  const auto outcome = gathering_.Come(id, std::move(request), member.address, Now());
  if (outcome) Deliver(*outcome);
  return Status::Ok();
}

Status StoreServer::Loop::Handle(MemberId id, Member& member, SetRequest request) {
  if (request.key.size() > kMaxStoreKeyBytes || request.value.size() > kMaxStoreValueBytes) {
    return Error(StatusCode::kInvalidArgument,
                 "a key of {} bytes, at most {}, with a value of {} bytes, at most {}",
                 request.key.size(), kMaxStoreKeyBytes, request.value.size(), kMaxStoreValueBytes);
  }
  if (request.key == kProblemKey) {
    Deliver(gathering_.Report(
        member.rank, Status(StatusCode::kInvalidArgument, std::move(request.value)), Now()));
    Answer(id, SetAnswer{});
    return Status::Ok();
  }
  const auto found = values_.find(request.key);
  const std::size_t replaced = found == values_.end() ? 0 : found->second.size();
  const std::size_t bytes = value_bytes_ - replaced + request.value.size();
  if ((found == values_.end() && values_.size() >= kMostKeys) || bytes > kMostValueBytes) {
    return Error(StatusCode::kResource,
                 "the store is full: {} keys of at most {}, {} bytes of at most {}", values_.size(),
                 kMostKeys, value_bytes_, kMostValueBytes);
  }
  value_bytes_ = bytes;
  StoreGathering::Outcome told{{}, GetAnswer{request.value}};
  for (const auto& [other_id, other] : members_) {
    if (other.waits == Waits::kForKey && other.key == request.key) told.members.push_back(other_id);
  }
  values_.insert_or_assign(std::move(request.key), std::move(request.value));
  Deliver(told);
  Answer(id, SetAnswer{});
  return Status::Ok();
}

Status StoreServer::Loop::Handle(MemberId id, Member& member, GetRequest request) {
  const auto found = values_.find(request.key);
  if (found != values_.end()) {
    Answer(id, GetAnswer{found->second});
    return Status::Ok();
  }
  member.waits = Waits::kForKey;
  member.answer_by = AnswerBy(request.patience_ms);
  member.key = std::move(request.key);
  return Status::Ok();
}

void StoreServer::Loop::Answer(MemberId id, const StoreMessage& answer) { Deliver({{id}, answer}); }

void StoreServer::Loop::Deliver(const StoreGathering::Outcome& outcome) {
  if (outcome.members.empty()) return;
  Result<StoreFrame> frame = MakeStoreFrame(outcome.answer);
  if (!frame) frame = MakeStoreFrame(Refusal{frame.error()});
  for (const MemberId id : outcome.members) Send(id, *frame);
}

void StoreServer::Loop::Send(MemberId id, const StoreFrame& frame) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  found->second.waits = Waits::kNot;
  // Who cannot be told has gone, which the next look at its socket shows.
  [[maybe_unused]] const Status sent = found->second.stream.Send(frame);
}

void StoreServer::Loop::ExpirePatience(TimePoint now) {
  std::vector<MemberId> tired;
  for (const auto& [id, member] : members_) {
    if (member.waits != Waits::kNot && member.answer_by <= now) tired.push_back(id);
  }
  for (const MemberId id : tired) {
    const auto found = members_.find(id);
    if (found == members_.end()) continue;
    Status status;
    if (found->second.waits == Waits::kForMeeting) {
      status = gathering_.GiveUp(id, now);
      status = Status(status.code(), status.message() + reception_->TurnedAway());
    } else {
      const double waited = std::chrono::duration<double>(now - found->second.asked).count();
      status = Error(StatusCode::kTimeout, "nobody set the key '{}' within {:.3g} s",
                     found->second.key, waited);
    }
    Answer(id, Refusal{status});
  }
}

void StoreServer::Loop::Drop(MemberId id) {
  const auto found = members_.find(id);
  gathering_.Leave(id);
  descriptors_.Remove(found->second.stream.fd());
  members_.erase(found);
}

void StoreServer::Loop::SayGoodbye() {
  StoreGathering::Outcome goodbye{
      {},
      Refusal{Error(StatusCode::kPeerFailed, "the store at {} has ended: its process left",
                    address().ToString())}};
  for (const auto& [id, member] : members_) {
    if (member.waits != Waits::kNot) goodbye.members.push_back(id);
  }
  Deliver(goodbye);
}

Result<std::unique_ptr<StoreServer>> StoreServer::Start(const SocketAddress& address,
                                                        const JobCredentials& credentials,
                                                        Protection protection) {
  auto reception = Reception::Open(
      address, {.credentials = credentials, .control = protection, .data = protection});
  if (!reception) return Fail(std::move(reception.error()));
  auto loop = std::make_unique<Loop>(std::move(*reception));
  if (Status status = loop->Start(); !status.ok()) return Fail(std::move(status));
  return std::unique_ptr<StoreServer>(new StoreServer(std::move(loop)));
}

StoreServer::StoreServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
StoreServer::~StoreServer() = default;

const SocketAddress& StoreServer::address() const { return loop_->address(); }
void StoreServer::CloseInForkedChild() noexcept { loop_->CloseInForkedChild(); }

}  // namespace hora
