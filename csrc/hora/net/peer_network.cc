#include "hora/net/peer_network.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/net/peer_network_loop.h"
#include "hora/net/socket_io.h"
#include "hora/net/tcp_socket.h"

namespace hora {
namespace {

constexpr Duration kFirstPause = std::chrono::milliseconds(2);  // between attempts to dial
constexpr Duration kLongestPause = std::chrono::milliseconds(100);
constexpr Duration kAskEvery = std::chrono::seconds(1);
constexpr Duration kDialPatience = std::chrono::seconds(3);  // a lost packet is sent again by then

TimePoint Now() { return SteadyClock::Instance().Now(); }

std::string NameOf(const Purpose& purpose) {
  std::string name;
  switch (purpose.kind) {
    case Purpose::Kind::kStore:
      name = "store";
      break;
    case Purpose::Kind::kControl:
      name = "control";
      break;
    case Purpose::Kind::kHeartbeat:
      name = "heartbeat";
      break;
    case Purpose::Kind::kData:
      name = fmt::format("data (lane {}, stripe {})", purpose.lane, purpose.stripe);
      break;
  }
  if (purpose.process_set != 0) name += fmt::format(" (process set {})", purpose.process_set);
  return name;
}

bool IsForPeers(const Purpose& purpose) {
  return purpose.kind == Purpose::Kind::kControl || purpose.kind == Purpose::Kind::kHeartbeat ||
         purpose.kind == Purpose::Kind::kData;
}

// The listener's first byte; nullopt when it does not come.
Result<Greeting> AwaitGreeting(Channel& channel, TimePoint deadline) {
  std::array<std::byte, 1> said{};
  for (;;) {
    const Result<std::size_t> got = channel.Read(said);
    if (!got) return Fail(got.error());
    if (*got == said.size()) return static_cast<Greeting>(said.front());
    if (!AwaitSocket(channel.fd(), POLLIN, deadline)) {
      return Fail(Status(StatusCode::kTimeout, "it did not welcome the connection in time"));
    }
  }
}

}  // namespace

PeerNetwork::Loop::Loop(PeerNetworkOptions options, std::unique_ptr<Reception> reception,
                        std::unique_ptr<DescriptorWatches> watches)
    : options_(std::move(options)),
      reception_(std::move(reception)),
      watches_(std::move(watches)) {}

PeerNetwork::Loop::~Loop() {
  arrivals_.Close();
  thread_.Stop();
}

Status PeerNetwork::Loop::Start() {
  return thread_.Start("hora-network", [this] { Run(); });
}

void PeerNetwork::Loop::CloseInForkedChild() noexcept {
  reception_->CloseInForkedChild();
  close(watches_->fd());
  arrivals_.CloseInForkedChild();
  thread_.CloseInForkedChild();
}

void PeerNetwork::Loop::Begin(std::uint64_t generation, std::vector<SocketAddress> addresses) {
  const std::lock_guard lock(mutex_);
  Check(generation != 0 && group_->generation == 0, "a peer network begins one generation");
  group_ = std::make_shared<const Group>(Group{generation, std::move(addresses)});
}

std::shared_ptr<const PeerNetwork::Loop::Group> PeerNetwork::Loop::group() {
  const std::lock_guard lock(mutex_);
  return group_;
}

void PeerNetwork::Loop::Tick(Duration period, std::function<void()> tick) {
  {
    const std::lock_guard between_ticks(tick_mutex_);
    const std::lock_guard lock(mutex_);
    Check(tick_ == nullptr || tick == nullptr, "a peer network has one tick");
    tick_period_ = period;
    tick_ = std::move(tick);
    next_tick_ = tick_ == nullptr ? TimePoint::max() : Now() + period;
  }
  thread_.Wake();
}

void PeerNetwork::Loop::Run() {
  while (!thread_.stopping()) {
    const TimePoint next_tick = TickIfDue();
    std::array<pollfd, 3> watched{{{thread_.wake_fd(), POLLIN, 0},
                                   {watches_->fd(), POLLIN, 0},
                                   {reception_->fd(), POLLIN, 0}}};
    const TimePoint deadline = std::min(next_tick, reception_->deadline());
    poll(watched.data(), watched.size(), PollTimeoutMs(deadline));
    if (watched[0].revents != 0) thread_.TakeWake();
    if (watched[1].revents != 0) watches_->Dispatch();
    if (watched[2].revents != 0 || reception_->deadline() <= Now()) ReceiveNewcomers();
  }
}

TimePoint PeerNetwork::Loop::TickIfDue() {
  const TimePoint now = Now();
  {
    const std::lock_guard lock(mutex_);
    if (now < next_tick_) return next_tick_;
    next_tick_ = std::max(next_tick_ + tick_period_, now);
  }
  {
    const std::lock_guard ticking(tick_mutex_);
    if (tick_ != nullptr) tick_();
  }
  const std::lock_guard lock(mutex_);
  return next_tick_;
}

void PeerNetwork::Loop::ReceiveNewcomers() {
  const std::shared_ptr<const Group> group = this->group();
  reception_->set_generation(group->generation);
  if (group->generation != 0) reception_->Expect(static_cast<int>(group->addresses.size()));
  for (Newcomer& newcomer : reception_->Receive()) Welcome(std::move(newcomer));
  std::string turned_away = reception_->TurnedAway();
  const std::lock_guard lock(mutex_);
  turned_away_ = std::move(turned_away);
}

void PeerNetwork::Loop::Welcome(Newcomer newcomer) {
  const Greeting greeting = Judge(newcomer, *group());
  const std::array<std::byte, 1> says{static_cast<std::byte>(greeting)};
  // The first byte of a connection does not fill its socket; where it does, the dialler tries
  // again.
  const Result<std::size_t> taken = newcomer.channel.Write(says);
  if (!taken || *taken != says.size()) return;
  const Result<bool> flushed = newcomer.channel.Flush();
  if (!flushed || !*flushed || greeting != Greeting::kWelcome) return;
  arrivals_.Put(newcomer.said.rank, newcomer.said.purpose, std::move(newcomer.channel));
}

Greeting PeerNetwork::Loop::Judge(const Newcomer& newcomer, const Group& group) {
  // Both ends look at the same two numbers, so they agree.
  const std::uint64_t theirs = newcomer.said.generation;
  if (theirs != newcomer.generation || theirs != group.generation || theirs == 0) {
    return Greeting::kOtherGeneration;
  }
  const Purpose& purpose = newcomer.said.purpose;
  const int size = static_cast<int>(group.addresses.size());
  const bool may_dial = newcomer.said.rank > rank() && newcomer.said.rank < size;
  if (!may_dial || !IsForPeers(purpose) ||
      newcomer.channel.protection() != ProtectionFor(purpose)) {
    return Greeting::kUnknownPurpose;
  }
  return arrivals_.HasRoom() ? Greeting::kWelcome : Greeting::kNoRoom;
}

Protection PeerNetwork::Loop::ProtectionFor(const Purpose& purpose) const {
  return purpose.kind == Purpose::Kind::kData ? options_.data : options_.control;
}

Result<Channel> PeerNetwork::Loop::Connect(int peer, const Purpose& purpose, TimePoint deadline) {
  const std::shared_ptr<const Group> group = this->group();
  const bool is_peer =
      peer >= 0 && peer != rank() && static_cast<std::size_t>(peer) < group->addresses.size();
  if (!is_peer || !IsForPeers(purpose)) {
    return Fail(Error(StatusCode::kInternal, "rank {} has no peer {} among {} ranks for {}", rank(),
                      peer, group->addresses.size(), NameOf(purpose)));
  }
  Result<Channel> channel = peer > rank() ? AwaitArrival(peer, purpose, deadline)
                                          : DialPeer(peer, purpose, *group, deadline);
  if (!channel) return Fail(About(peer, purpose, *group, channel.error()));
  return channel;
}

Status PeerNetwork::Loop::About(int peer, const Purpose& purpose, const Group& group,
                                const Status& cause) const {
  const std::string address = group.addresses[static_cast<std::size_t>(peer)].ToString();
  const bool named = cause.message().starts_with(address);
  return Error(cause.code(), "rank {} has no {} channel to rank {}{}: {}", rank(), NameOf(purpose),
               peer, named ? "" : " at " + address, cause.message());
}

Result<Channel> PeerNetwork::Loop::AwaitArrival(int peer, const Purpose& purpose,
                                                TimePoint deadline) {
  for (bool is_last = false; !is_last;) {
    const TimePoint until = std::min(deadline, Now() + kAskEvery);
    is_last = until == deadline;
    std::optional<Channel> channel = arrivals_.Take(peer, purpose, until);
    if (channel) return std::move(*channel);
    if (thread_.stopping()) {
      return Fail(Status(StatusCode::kShutDown, "this process closes its network"));
    }
    if (Status lost = Lost(); !lost.ok()) return Fail(std::move(lost));
  }
  const std::lock_guard lock(mutex_);
  return Fail(Error(StatusCode::kTimeout,
                    "it has not connected to {} in time; is it running, and can it reach that "
                    "address?{}",
                    address().ToString(), turned_away_));
}

Result<Channel> PeerNetwork::Loop::DialPeer(int peer, const Purpose& purpose, const Group& group,
                                            TimePoint deadline) {
  std::string why_not;
  TimePoint ask = Now() + kAskEvery;
  for (Duration pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    Result<std::optional<Channel>> channel = TryToDial(peer, purpose, group, deadline, why_not);
    if (!channel) return Fail(std::move(channel.error()));
    if (channel->has_value()) return std::move(**channel);
    const TimePoint again = Now() + pause;
    if (again >= deadline) return Fail(Status(StatusCode::kTimeout, why_not));
    if (again >= ask) {
      if (Status lost = Lost(); !lost.ok()) return Fail(std::move(lost));
      ask = again + kAskEvery;
    }
    poll(nullptr, 0, PollTimeoutMs(again));
  }
}

Result<std::optional<Channel>> PeerNetwork::Loop::TryToDial(int peer, const Purpose& purpose,
                                                            const Group& group, TimePoint deadline,
                                                            std::string& why_not) {
  const auto not_now = [&why_not](std::string reason) {
    why_not = std::move(reason);
    return Result<std::optional<Channel>>(std::nullopt);
  };
  const SocketAddress& address = group.addresses[static_cast<std::size_t>(peer)];
  const TimePoint dial_ends = std::min(deadline, Now() + kDialPatience);
  Result<UniqueFd> socket = Dial(address, dial_ends, /*patient=*/false);
  if (!socket && socket.error().code() == StatusCode::kTimeout && dial_ends < deadline) {
    return not_now(socket.error().message());
  }
  if (!socket) return Fail(std::move(socket.error()));
  const Handshake::Options options{
      .role = Handshake::Role::kDialler,
      .protection = ProtectionFor(purpose),
      .credentials = options_.credentials,
      .mine = {.rank = rank(), .generation = group.generation, .purpose = purpose}};
  const TimePoint attempt_ends = std::min(deadline, Now() + kHandshakePatience);
  Introduction said;
  Result<Channel> channel = Handshake::Run(std::move(*socket), options, attempt_ends, &said);
  if (!channel && channel.error().code() == StatusCode::kInvalidArgument) {
    return Fail(std::move(channel.error()));
  }
  if (!channel) return not_now(channel.error().message());
  if (said.rank != peer) {
    return Fail(Error(StatusCode::kPeerFailed, "rank {} listens there instead", said.rank));
  }
  if (said.generation > group.generation) {
    return Fail(Error(StatusCode::kPeerFailed,
                      "it is in generation {}, this process still in {}: the others have met again "
                      "without it",
                      said.generation, group.generation));
  }
  const Result<Greeting> greeting = AwaitGreeting(*channel, attempt_ends);
  if (!greeting) return not_now(greeting.error().message());
  switch (*greeting) {
    case Greeting::kWelcome:
      return std::optional<Channel>(std::move(*channel));
    case Greeting::kOtherGeneration:
      return not_now(
          fmt::format("it is in generation {}, this process in {}: it has not heard of "
                      "the last meeting",
                      said.generation, group.generation));
    case Greeting::kNoRoom:
      return not_now("it has no room for more connections that it has not asked for");
    case Greeting::kUnknownPurpose:
      break;
  }
  return Fail(Error(StatusCode::kInternal,
                    "it refuses such a channel (answer {}); are all ranks "
                    "started with the same settings?",
                    static_cast<int>(*greeting)));
}

Result<std::unique_ptr<PeerNetwork>> PeerNetwork::Open(PeerNetworkOptions options) {
  auto reception = Reception::Open(options.bind, {.credentials = options.credentials,
                                                  .rank = options.rank,
                                                  .control = options.control,
                                                  .data = options.data});
  if (!reception) return Fail(std::move(reception.error()));
  auto watches = DescriptorWatches::Open();
  if (!watches) return Fail(std::move(watches.error()));
  auto loop =
      std::make_unique<Loop>(std::move(options), std::move(*reception), std::move(*watches));
  if (Status status = loop->Start(); !status.ok()) return Fail(std::move(status));
  return std::unique_ptr<PeerNetwork>(new PeerNetwork(std::move(loop)));
}

PeerNetwork::PeerNetwork(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
PeerNetwork::~PeerNetwork() = default;

int PeerNetwork::rank() const { return loop_->rank(); }
const SocketAddress& PeerNetwork::address() const { return loop_->address(); }

void PeerNetwork::Begin(std::uint64_t generation, std::vector<SocketAddress> addresses) {
  loop_->Begin(generation, std::move(addresses));
}

Result<Channel> PeerNetwork::Connect(int peer, const Purpose& purpose, TimePoint deadline) {
  return loop_->Connect(peer, purpose, deadline);
}

void PeerNetwork::Watch(int fd, std::function<void()> ready) {
  loop_->watches().Watch(fd, std::move(ready));
}
void PeerNetwork::Rearm(int fd) { loop_->watches().Rearm(fd); }
void PeerNetwork::Unwatch(int fd) { loop_->watches().Unwatch(fd); }

void PeerNetwork::AskWhileWaiting(std::function<Status()> lost) {
  loop_->AskWhileWaiting(std::move(lost));
}
void PeerNetwork::Tick(Duration period, std::function<void()> tick) {
  loop_->Tick(period, std::move(tick));
}

void PeerNetwork::CloseInForkedChild() noexcept { loop_->CloseInForkedChild(); }

}  // namespace hora
