#include "hora/control/rendezvous_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/unique_fd.h"
#include "hora/control/rendezvous_message.h"

namespace hora {
namespace {

constexpr int kFirstBackoffMs = 1;
constexpr int kLastBackoffMs = 20;
// Whoever starts ranks listens before it tells them where: where nobody does, rank 0 has ended.
constexpr Duration kNobodyPatience = std::chrono::seconds(1);

class RendezvousClient {
 public:
  RendezvousClient(const HostGroupOptions& options, TimePoint deadline)
      : options_(options), deadline_(deadline) {}

  Result<HostGroup> Join();
  Status Refuse(const Status& problem);

 private:
  Status Connect();
  void Introduce();
  Status Receive(Notice& notice);  // refusals and hang-ups are errors
  Result<std::shared_ptr<Board>> AttachBoard(const Notice& welcome);
  Status NoAnswer() const;

  const HostGroupOptions& options_;
  const TimePoint deadline_;
  UniqueFd fd_;
  MessageReader reader_;
  int server_pid_ = 0;  // 0: not welcomed yet
};

Result<HostGroup> RendezvousClient::Join() {
  if (Status status = Connect(); !status.ok()) return Fail(std::move(status));
  Introduce();
  Notice welcome;
  if (Status status = Receive(welcome); !status.ok()) return Fail(std::move(status));
  server_pid_ = welcome.pid;
  Result<std::shared_ptr<Board>> board = AttachBoard(welcome);
  if (!board) {
    // Rank 0 tells the others, so that nobody waits for this rank.
    [[maybe_unused]] const Status told = SendMessage(fd_.get(), Notice::Refusal(board.error()));
    return Fail(std::move(board.error()));
  }
  Notice go;
  // When this cannot be sent, rank 0 has hung up, and may have said why.
  [[maybe_unused]] const Status told = SendMessage(fd_.get(), Notice{.kind = NoticeKind::kReady});
  Status status = Receive(go);
  if (status.ok() && go.kind != NoticeKind::kGo) {
    status = Error(StatusCode::kInternal, "rank 0 (pid {}) broke the rendezvous: message {}",
                   server_pid_, static_cast<unsigned>(go.kind));
  }
  if (!status.ok()) return Fail(std::move(status));
  return HostGroup{.board = std::move(*board),
                   .tunables = welcome.tunables,
                   .peers = {{.rank = 0, .pid = server_pid_, .fd = fd_.Release()}}};
}

Status RendezvousClient::Refuse(const Status& problem) {
  if (Status status = Connect(); !status.ok()) return status;
  Introduce();
  return SendMessage(fd_.get(), Notice::Refusal(problem));
}

Status RendezvousClient::Connect() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // An abstract name begins with a zero byte and is as long as its length says.
  std::copy(options_.rendezvous.begin(), options_.rendezvous.end(), address.sun_path + 1);
  const auto length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + options_.rendezvous.size());
  fd_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd_.valid()) {
    return Error(StatusCode::kResource, "rank {}: cannot open a socket: {} (see ulimit -n)",
                 options_.rank, std::strerror(errno));
  }
  const TimePoint nobody_comes = SteadyClock::Instance().Now() + kNobodyPatience;
  for (int backoff_ms = kFirstBackoffMs;;) {
    if (connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) break;
    // Nobody is bound to the name, or its queue is full for a moment.
    const bool is_nobody = errno == ECONNREFUSED;
    const bool may_come = is_nobody || errno == EAGAIN || errno == EINTR;
    if (!may_come) {
      return Error(StatusCode::kPeerFailed, "rank {}: cannot connect to rank 0 at '{}': {}",
                   options_.rank, options_.rendezvous, std::strerror(errno));
    }
    if (SteadyClock::Instance().Now() >= deadline_) return NoAnswer();
    if (is_nobody && SteadyClock::Instance().Now() >= nobody_comes) {
      return Error(StatusCode::kPeerFailed,
                   "rank {}: nobody listens at '{}' any more: rank 0 has ended; see its output",
                   options_.rank, options_.rendezvous);
    }
    poll(nullptr, 0, std::min(backoff_ms, MillisecondsUntil(deadline_)));
    backoff_ms = std::min(2 * backoff_ms, kLastBackoffMs);
  }
  if (!IdentityOf(fd_.get()).same_user) {
    return Error(
        StatusCode::kPeerFailed,
        "rank {}: '{}' belongs to a process of another user, not to rank 0; all ranks of a job "
        "must run as one user",
        options_.rank, options_.rendezvous);
  }
  return Status::Ok();
}

void RendezvousClient::Introduce() {
  Hello hello;
  const auto key = options_.key.bytes();
  std::copy(key.begin(), key.end(), hello.key.begin());
  hello.rank = options_.rank;
  hello.size = options_.size;
  hello.pid = getpid();
  // A failure means that the other side has hung up, which Receive reports.
  [[maybe_unused]] const Status told = SendMessage(fd_.get(), hello);
  explicit_bzero(&hello, sizeof(hello));
}

Status RendezvousClient::Receive(Notice& notice) {
  for (;;) {
    const auto into = std::as_writable_bytes(std::span(&notice, 1));
    const Progress progress = reader_.Read(fd_.get(), into);
    if (progress == Progress::kComplete) break;
    if (progress == Progress::kClosed && server_pid_ == 0) {
      return Error(
          StatusCode::kPeerFailed,
          "rank 0 at '{}' hung up on rank {} without an answer: it has ended, or the two have "
          "the keys of different jobs",
          options_.rendezvous, options_.rank);
    }
    if (progress == Progress::kClosed) {
      return Error(
          StatusCode::kPeerFailed,
          "rank 0 (pid {}) hung up before all ranks were there: see its output for the reason",
          server_pid_);
    }
    if (!PollUntil(fd_.get(), POLLIN, deadline_)) return NoAnswer();
  }
  reader_.Reset();
  return notice.kind == NoticeKind::kRefusal ? notice.cause() : Status::Ok();
}

Result<std::shared_ptr<Board>> RendezvousClient::AttachBoard(const Notice& welcome) {
  UniqueFd passed = reader_.TakePassedFd();
  if (welcome.kind != NoticeKind::kWelcome || welcome.size != options_.size) {
    return Fail(Error(StatusCode::kInternal,
                      "rank 0 (pid {}) broke the rendezvous: message {} for {} ranks", welcome.pid,
                      static_cast<unsigned>(welcome.kind), welcome.size));
  }
  if (!passed.valid()) {
    return Fail(Error(StatusCode::kResource,
                      "rank {} (pid {}): the board's descriptor did not arrive{}", options_.rank,
                      getpid(),
                      reader_.descriptor_lost() ? ": too many open files (ulimit -n)" : ""));
  }
  return Board::Attach(passed.Release(), {.size = options_.size,
                                          .window_bytes = welcome.tunables.window_bytes,
                                          .generation = welcome.generation});
}

Status RendezvousClient::NoAnswer() const {
  const double seconds = std::chrono::duration<double>(options_.timeout).count();
  if (server_pid_ != 0) {
    return Error(
        StatusCode::kTimeout,
        "rank {}: rank 0 (pid {}) still waits for other ranks after {:g} s: see its output",
        options_.rank, server_pid_, seconds);
  }
  return Error(StatusCode::kTimeout,
               "rank {}: rank 0 did not answer at '{}' within {:g} s: is it running?",
               options_.rank, options_.rendezvous, seconds);
}

}  // namespace

Result<HostGroup> JoinRendezvous(const HostGroupOptions& options, TimePoint deadline) {
  return RendezvousClient(options, deadline).Join();
}

Status RefuseRendezvous(const HostGroupOptions& options, const Status& problem,
                        TimePoint deadline) {
  return RendezvousClient(options, deadline).Refuse(problem);
}

}  // namespace hora
