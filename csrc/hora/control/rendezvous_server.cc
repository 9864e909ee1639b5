#include "hora/control/rendezvous_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr auto kHelloPatience = std::chrono::seconds(2);
constexpr std::size_t kStrangers = 16;  // connections beyond one for each rank

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

RendezvousServer::RendezvousServer(const HostGroupOptions& options, std::uint64_t generation)
    : options_(options), generation_(generation) {}

Result<HostGroup> RendezvousServer::Form(TimePoint deadline) {
  const BoardOptions board_options{.size = options_.size,
                                   .window_bytes = options_.tunables.window_bytes,
                                   .generation = generation_};
  Result<std::shared_ptr<Board>> board = Board::Create(board_options);
  if (!board) return Fail(std::move(board.error()));
  board_ = std::move(*board);
  if (Status status = Serve(deadline); !status.ok()) {
    // Who still waits to be accepted stays there, ready for another attempt.
    RefuseAll(status);
    return Fail(std::move(status));
  }
  return Complete();
}

Status RendezvousServer::Serve(TimePoint deadline) {
  while (!EverybodyReady()) {
    if (SteadyClock::Instance().Now() >= deadline) return TimedOut();
    const bool knocked = Wait(deadline);
    for (const auto& connection : connections_) {
      if (Status status = Advance(*connection); !status.ok()) return status;
    }
    DropTheGone();
    if (!knocked) continue;
    if (Status status = Accept(); !status.ok()) return status;
  }
  return Status::Ok();
}

// Sleeps until some connection has something to say, a new one comes or a patience ends.
bool RendezvousServer::Wait(TimePoint deadline) {
  const bool room = connections_.size() < static_cast<std::size_t>(options_.size) + kStrangers;
  std::vector<pollfd> watched;
  watched.push_back({room ? options_.listen_fd : -1, POLLIN, 0});
  for (const auto& connection : connections_) {
    watched.push_back({connection->fd.get(), POLLIN | POLLRDHUP, 0});
    if (connection->stage == Stage::kStranger) {
      deadline = std::min(deadline, connection->hello_deadline);
    }
  }
  poll(watched.data(), watched.size(), MillisecondsUntil(deadline));
  return watched.front().revents != 0;
}

Status RendezvousServer::Accept() {
  UniqueFd fd(accept4(options_.listen_fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return Status::Ok();
    return Error(
        StatusCode::kResource,
        "rank 0 cannot accept the connections of the other {} ranks: {}; is the limit of open "
        "files (ulimit -n) too low?",
        options_.size - 1, std::strerror(errno));
  }
  const PeerIdentity identity = IdentityOf(fd.get());
  if (!identity.same_user) {
    ++turned_away_;
    return Status::Ok();
  }
  auto connection = std::make_unique<Connection>();
  connection->fd = std::move(fd);
  connection->identity = identity;
  connection->hello_deadline = SteadyClock::Instance().Now() + kHelloPatience;
  connections_.push_back(std::move(connection));
  return Status::Ok();
}

Status RendezvousServer::Advance(Connection& connection) {
  if (connection.stage == Stage::kGone) return Status::Ok();
  const bool stranger = connection.stage == Stage::kStranger;
  const std::span<std::byte> into = stranger
                                        ? std::as_writable_bytes(std::span(&connection.hello, 1))
                                        : std::as_writable_bytes(std::span(&connection.notice, 1));
  const Progress progress = connection.reader.Read(connection.fd.get(), into);
  if (progress == Progress::kIncomplete) {
    const bool late = SteadyClock::Instance().Now() >= connection.hello_deadline;
    if (stranger && late) connection.stage = Stage::kGone;
    return Status::Ok();
  }
  const bool complete = progress == Progress::kComplete;
  connection.reader.Reset();
  if (complete && stranger) return MeetStranger(connection);
  if (complete && connection.stage == Stage::kMessenger) return connection.notice.cause();
  if (complete && connection.stage == Stage::kWelcomed) {
    if (connection.notice.kind == NoticeKind::kReady) {
      connection.stage = Stage::kReady;
      return Status::Ok();
    }
    const Status cause = connection.notice.cause();
    return Error(cause.code(), "rank {} (pid {}) cannot join: {}", connection.rank,
                 connection.identity.pid, cause.message());
  }
  // It hung up, or talks when it should wait. A retry of that rank may still come.
  if (connection.is_member()) {
    last_loss_ =
        fmt::format("rank {} (pid {}) came and left again", connection.rank, connection.pid());
  }
  connection.stage = Stage::kGone;
  return Status::Ok();
}

Status RendezvousServer::MeetStranger(Connection& connection) {
  const Hello& hello = connection.hello;
  const bool proved = hello.magic == Hello::kMagic && SameKey(hello.key, options_.key.bytes());
  explicit_bzero(&connection.hello.key, sizeof(KeyBytes));
  if (!proved) ++turned_away_;
  const bool is_messenger = hello.version == kRendezvousVersion && hello.rank == Hello::kNoRank;
  if (proved && is_messenger) {  // it does not stay for an answer
    connection.stage = Stage::kMessenger;
    return Status::Ok();
  }
  // A hello can outlive its sender: an attempt that was given up before this one began.
  if (!proved || HasHungUp(connection.fd.get())) {
    connection.stage = Stage::kGone;
    return Status::Ok();
  }
  connection.stage = Stage::kWelcomed;  // from here on it is told what goes wrong
  connection.rank = hello.rank;
  if (connection.identity.pid == 0) connection.identity.pid = hello.pid;
  if (Status status = Judge(connection); !status.ok()) return status;
  if (Status status = CheckUnclaimed(connection); !status.ok()) return status;
  Welcome(connection);
  return Status::Ok();
}

Status RendezvousServer::Judge(const Connection& connection) const {
  const int pid = connection.pid();
  if (connection.hello.version != kRendezvousVersion) {
    return Error(
        StatusCode::kInvalidArgument,
        "pid {} speaks version {} of the rendezvous, rank 0 (pid {}) version {}: install the "
        "same hora for all ranks",
        pid, connection.hello.version, getpid(), kRendezvousVersion);
  }
  if (connection.hello.size != options_.size) {
    return Error(StatusCode::kInvalidArgument,
                 "rank {} (pid {}) was started for {} ranks, rank 0 (pid {}) for {}",
                 connection.rank, pid, connection.hello.size, getpid(), options_.size);
  }
  if (connection.rank < 0 || connection.rank >= options_.size) {
    return Error(StatusCode::kInvalidArgument, "pid {} claims rank {}; allowed are 1 to {}", pid,
                 connection.rank, options_.size - 1);
  }
  if (connection.rank == 0) {
    return Error(StatusCode::kInvalidArgument,
                 "rank 0 is claimed by two processes: pid {} and pid {}", getpid(), pid);
  }
  return Status::Ok();
}

// Makes room for a member that tries again; two that live is a mistake in how they were started.
Status RendezvousServer::CheckUnclaimed(const Connection& connection) {
  for (const auto& other : connections_) {
    const bool same_claim = other->is_member() && other->rank == connection.rank;
    if (!same_claim || other.get() == &connection) continue;
    if (!HasHungUp(other->fd.get())) {
      return Error(StatusCode::kInvalidArgument,
                   "rank {} is claimed by two processes: pid {} and pid {}", connection.rank,
                   other->pid(), connection.pid());
    }
    other->stage = Stage::kGone;
  }
  return Status::Ok();
}

void RendezvousServer::Welcome(Connection& connection) {
  const Notice notice{.kind = NoticeKind::kWelcome,
                      .pid = getpid(),
                      .size = options_.size,
                      .generation = generation_,
                      .tunables = options_.tunables};
  const bool sent = SendMessage(connection.fd.get(), notice, board_->fd()).ok();
  connection.stage = sent ? Stage::kWelcomed : Stage::kGone;
}

void RendezvousServer::DropTheGone() {
  std::erase_if(connections_,
                [](const auto& connection) { return connection->stage == Stage::kGone; });
}

void RendezvousServer::RefuseAll(const Status& cause) {
  const Notice refusal = Notice::Refusal(cause);
  for (const auto& connection : connections_) {
    if (!connection->is_member()) continue;
    // Who cannot be told sees the hang-up.
    [[maybe_unused]] const Status told = SendMessage(connection->fd.get(), refusal);
  }
  connections_.clear();
}

bool RendezvousServer::EverybodyReady() const {
  const auto is_ready = [](const auto& c) { return c->stage == Stage::kReady; };
  const auto has_left = [&](const auto& c) { return is_ready(c) && HasHungUp(c->fd.get()); };
  return std::count_if(connections_.begin(), connections_.end(), is_ready) == options_.size - 1 &&
         std::none_of(connections_.begin(), connections_.end(), has_left);
}

Status RendezvousServer::TimedOut() const {
  RankSet have = RankSet::Of(0);
  RankSet unready;
  for (const auto& connection : connections_) {
    if (connection->is_member()) have.Add(connection->rank);
    if (connection->stage == Stage::kWelcomed) unready.Add(connection->rank);
  }
  RankSet missing = RankSet::AllOf(options_.size);
  missing.Remove(have);
  std::string text =
      fmt::format("the {} ranks of this host did not all join within {:g} s: have {}; missing {}",
                  options_.size, Seconds(options_.timeout), have.ToString(), missing.ToString());
  if (!unready.empty()) text += fmt::format("; joined but not ready {}", unready.ToString());
  if (!last_loss_.empty()) text += "; " + last_loss_;
  if (turned_away_ > 0) {
    text += fmt::format("; turned away {} connections without the job's key", turned_away_);
  }
  return Error(StatusCode::kTimeout, "{}; is every rank running, and does it call init?", text);
}

// From here on a death is the business of Liveness, also one that this loop runs into.
HostGroup RendezvousServer::Complete() {
  HostGroup group{.board = board_, .tunables = options_.tunables, .peers = {}};
  const Notice go{.kind = NoticeKind::kGo};
  for (const auto& connection : connections_) {
    if (connection->stage != Stage::kReady) continue;
    [[maybe_unused]] const Status told = SendMessage(connection->fd.get(), go);
    group.peers.push_back({connection->rank, connection->pid(), connection->fd.Release()});
  }
  std::sort(group.peers.begin(), group.peers.end(),
            [](const PeerSocket& a, const PeerSocket& b) { return a.rank < b.rank; });
  return group;
}

}  // namespace hora
