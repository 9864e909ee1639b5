#include "hora/net/reception.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/net/hello.h"

namespace hora {
namespace {

constexpr std::size_t kStrangersBeyondMembers = 16;
constexpr std::size_t kStrangersBeforeBegin = 256;  // the number of members is not known yet
constexpr std::size_t kMostStrangers = 1024;
constexpr std::uint64_t kListenerId = 0;
constexpr std::size_t kHelloProtectionAt = 12;  // see hello.h
constexpr Duration kPauseWithoutDescriptors = std::chrono::milliseconds(100);
// While others wait for their places, strangers lose them sooner. A member speaks at once.
constexpr Duration kSilence = std::chrono::milliseconds(100);
constexpr Duration kSlowness = std::chrono::seconds(1);
constexpr Duration kPauseWithoutRoom = std::chrono::milliseconds(10);
constexpr Duration kBetweenLogLines = std::chrono::seconds(10);

TimePoint Now() { return SteadyClock::Instance().Now(); }

bool Watch(int epoll, int operation, int fd, std::uint32_t events, std::uint64_t id) {
  epoll_event event{.events = events, .data = {.u64 = id}};
  return epoll_ctl(epoll, operation, fd, &event) == 0;
}

// epoll tells of a socket when it has so many bytes, or has ended.
void SetWakingBytes(int fd, std::size_t bytes) {
  const int value = static_cast<int>(bytes);
  setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value));
}

}  // namespace

Result<std::unique_ptr<Reception>> Reception::Open(const SocketAddress& address, Options options) {
  Result<TcpListener> listener = TcpListener::Open(address);
  if (!listener) return Fail(std::move(listener.error()));
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid() || !Watch(epoll.get(), EPOLL_CTL_ADD, listener->fd(), EPOLLIN, kListenerId)) {
    return Fail(Error(StatusCode::kResource, "cannot watch the listener at {}: {}",
                      listener->address().ToString(), std::strerror(errno)));
  }
  return std::unique_ptr<Reception>(
      new Reception(std::move(*listener), std::move(epoll), std::move(options)));
}

Reception::Reception(TcpListener listener, UniqueFd epoll, Options options)
    : listener_(std::move(listener)),
      epoll_(std::move(epoll)),
      options_(std::move(options)),
      descriptors_(kMostStrangers),
      most_strangers_(kStrangersBeforeBegin) {}

Reception::~Reception() = default;

void Reception::Expect(int members) {
  most_strangers_ =
      std::min(kStrangersBeyondMembers + static_cast<std::size_t>(members), kMostStrangers);
}

TimePoint Reception::deadline() const {
  const TimePoint resumes = paused_until_ == TimePoint() ? TimePoint::max() : paused_until_;
  // All strangers have the same patience, so the oldest is the first to lose it.
  return strangers_.empty() ? resumes : std::min(resumes, strangers_.begin()->second.deadline());
}

std::vector<Newcomer> Reception::Receive() {
  std::vector<Newcomer> newcomers;
  std::array<epoll_event, 64> events;
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  bool knocked = false;
  for (int i = 0; i < count; ++i) {
    const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
    if (id == kListenerId) knocked = true;
    if (id != kListenerId) Advance(id, newcomers);
  }
  const TimePoint now = Now();
  while (!strangers_.empty() && strangers_.begin()->second.deadline() <= now) {
    TurnAway(strangers_.begin(), Status(StatusCode::kTimeout, "it took too long to prove the key"));
  }
  if (paused_until_ != TimePoint() && paused_until_ <= now) {
    paused_until_ = {};
    Watch(epoll_.get(), EPOLL_CTL_ADD, listener_.fd(), EPOLLIN, kListenerId);
  }
  // Last, so that those who have answered leave their places first.
  if (knocked) AcceptAll();
  return newcomers;
}

void Reception::AcceptAll() {
  // No more than may stay: a flood must not keep this from looking at those who are here.
  for (std::size_t i = 0; i < most_strangers_; ++i) {
    if (strangers_.size() >= most_strangers_ && !MakeRoom()) {
      return PauseListening(kPauseWithoutRoom);
    }
    Result<UniqueFd> socket = listener_.Accept();
    if (!socket) return AcceptWithoutDescriptors(socket.error());
    if (!socket->valid()) return;
    Admit(std::move(*socket));
  }
}

bool Reception::MakeRoom() {
  const TimePoint now = Now();
  const auto tiresome = [&](const Strangers::value_type& entry) {
    return now - entry.second.since >= (entry.second.spoke ? kSlowness : kSilence);
  };
  const auto found = std::find_if(strangers_.begin(), strangers_.end(), tiresome);
  if (found == strangers_.end()) return false;
  TurnAway(found, Status(StatusCode::kTimeout, "it was silent while others came"));
  return true;
}

void Reception::AcceptWithoutDescriptors(const Status& cause) {
  if (Now() >= next_log_) {
    Log(LogLevel::kWarning, options_.rank, cause.message() + "; is `ulimit -n` too low?");
    next_log_ = Now() + kBetweenLogLines;
  }
  if (!MakeRoom()) PauseListening(kPauseWithoutDescriptors);
}

// The listener stays readable while somebody waits there, and watching it would be a busy loop.
void Reception::PauseListening(Duration duration) {
  Watch(epoll_.get(), EPOLL_CTL_DEL, listener_.fd(), 0, kListenerId);
  paused_until_ = Now() + duration;
}

void Reception::Admit(UniqueFd socket) {
  Stranger stranger{.generation = generation_,
                    .since = Now(),
                    .address = PeerName(socket.get()),
                    .fd = socket.get()};
  stranger.socket = std::move(socket);
  if (options_.data != options_.control) SetWakingBytes(stranger.fd, kHelloBytes);
  const std::uint64_t id = next_id_++;
  if (!Watch(epoll_.get(), EPOLL_CTL_ADD, stranger.fd, EPOLLIN, id)) return;
  descriptors_.Add(stranger.fd);
  strangers_.emplace(id, std::move(stranger));
}

// Where members may ask for one of two protections, the hello says for which.
bool Reception::BeginHandshake(Stranger& stranger) {
  Protection protection = options_.control;
  if (options_.data != options_.control) {
    std::array<std::byte, kHelloBytes> hello;
    const ssize_t peeked = recv(stranger.fd, hello.data(), hello.size(), MSG_PEEK);
    if (peeked < static_cast<ssize_t>(hello.size())) return false;
    SetWakingBytes(stranger.fd, 1);
    if (hello[kHelloProtectionAt] == static_cast<std::byte>(options_.data)) {
      protection = options_.data;
    }
  }
  Handshake::Options options{
      .role = Handshake::Role::kListener,
      .protection = protection,
      .credentials = options_.credentials,
      .mine = {.rank = options_.rank, .generation = stranger.generation, .purpose = {}}};
  stranger.handshake = std::make_unique<Handshake>(std::move(stranger.socket), options);
  return true;
}

void Reception::Advance(std::uint64_t id, std::vector<Newcomer>& newcomers) {
  const auto found = strangers_.find(id);
  if (found == strangers_.end()) return;
  Stranger& stranger = found->second;
  stranger.spoke = true;
  if (stranger.handshake == nullptr && !BeginHandshake(stranger)) {
    // It was woken by an end or an error, as the hello wakes when it is complete.
    return TurnAway(found, Status(StatusCode::kPeerFailed, "it left without a hello"));
  }
  const Handshake::Progress progress = stranger.handshake->Advance();
  switch (progress) {
    case Handshake::Progress::kWantsRead:
    case Handshake::Progress::kWantsWrite: {
      const bool writes = progress == Handshake::Progress::kWantsWrite;
      if (writes == std::exchange(stranger.writes, writes)) return;
      Watch(epoll_.get(), EPOLL_CTL_MOD, stranger.fd, writes ? EPOLLOUT : EPOLLIN, id);
      return;
    }
    case Handshake::Progress::kFailed:
      return TurnAway(found, stranger.handshake->failure());
    case Handshake::Progress::kDone:
      break;
  }
  Watch(epoll_.get(), EPOLL_CTL_DEL, stranger.fd, 0, id);
  descriptors_.Remove(stranger.fd);
  newcomers.push_back({.channel = stranger.handshake->Take(),
                       .said = stranger.handshake->peer(),
                       .generation = stranger.generation,
                       .address = std::move(stranger.address)});
  strangers_.erase(found);
}

void Reception::TurnAway(Strangers::iterator stranger, const Status& why) {
  ++turned_away_;
  // What a handshake says has the name already.
  const std::string& other_end = stranger->second.address;
  last_reason_ = why.message().starts_with(other_end)
                     ? why.message()
                     : fmt::format("{}: {}", other_end, why.message());
  if (why.code() == StatusCode::kInvalidArgument) misfit_ = Status(why.code(), last_reason_);
  if (Now() >= next_log_) {
    Log(LogLevel::kWarning, options_.rank,
        fmt::format("turned away a connection to {} from {} ({} so far)", address().ToString(),
                    last_reason_, turned_away_));
    next_log_ = Now() + kBetweenLogLines;
  }
  Drop(stranger);
}

void Reception::Drop(Strangers::iterator stranger) {
  descriptors_.Remove(stranger->second.fd);
  strangers_.erase(stranger);
}

std::string Reception::TurnedAway() const {
  if (turned_away_ == 0) return "";
  return fmt::format("; turned away {} connections, the last from {}", turned_away_, last_reason_);
}

void Reception::CloseInForkedChild() const noexcept {
  close(listener_.fd());
  close(epoll_.get());
  descriptors_.CloseAll();
}

}  // namespace hora
