#include "hora/control/heartbeats.h"

#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr int kBeatsPerSilence = 4;

TimePoint Now() { return SteadyClock::Instance().Now(); }

}  // namespace

struct Heartbeats::Connection {
  explicit Connection(Neighbour who) : neighbour(std::move(who)) {}

  Neighbour neighbour;
  std::vector<std::byte> unsent;  // mutex_
  HeartbeatWord incoming;         // the network's thread, as all below
  std::size_t received = 0;
  TimePoint heard = Now();
  bool over = false;
};

Heartbeats::Heartbeats(int first_rank, Duration silence, std::vector<Neighbour> neighbours,
                       std::shared_ptr<Board> board, PeerNetwork& network)
    : rank_(first_rank), silence_(silence), board_(std::move(board)), network_(network) {
  for (Neighbour& each : neighbours) {
    connections_.push_back(std::make_unique<Connection>(std::move(each)));
  }
  for (const auto& each : connections_) {
    Connection& connection = *each;
    network_.Watch(connection.neighbour.channel.fd(), [this, &connection] { Listen(connection); });
    network_.Rearm(connection.neighbour.channel.fd());
  }
  if (!connections_.empty()) network_.Tick(silence_ / kBeatsPerSilence, [this] { Beat(); });
}

Heartbeats::~Heartbeats() {
  network_.Tick(silence_, {});
  for (const auto& each : connections_) network_.Unwatch(each->neighbour.channel.fd());
}

void Heartbeats::Beat() {
  const TimePoint now = Now();
  if (board_->aborted()) Tell();
  for (const auto& each : connections_) {
    if (each->over) continue;
    if (now - each->heard > silence_) {
      Lose(*each, fmt::format("has been silent for {:.1f} s",
                              std::chrono::duration<double>(now - each->heard).count()));
      continue;
    }
    const std::lock_guard lock(mutex_);
    if (!goodbye_) Say(*each, HeartbeatWord{});
  }
}

void Heartbeats::Say(Connection& connection, const HeartbeatWord& word) {
  // A neighbour that does not read is told nothing new: it is silent itself, or soon will be.
  constexpr std::size_t kMostUnsent = 8 * sizeof(HeartbeatWord);
  const auto bytes = std::as_bytes(std::span(&word, 1));
  std::vector<std::byte>& unsent = connection.unsent;
  if (unsent.size() < kMostUnsent) unsent.insert(unsent.end(), bytes.begin(), bytes.end());
  Channel& channel = connection.neighbour.channel;
  while (!unsent.empty()) {
    const Result<std::size_t> taken = channel.Write(unsent);
    if (!taken || *taken == 0) break;  // what has ended is noticed by who reads
    unsent.erase(unsent.begin(), unsent.begin() + static_cast<std::ptrdiff_t>(*taken));
  }
  [[maybe_unused]] const Result<bool> flushed = channel.Flush();
}

void Heartbeats::Listen(Connection& connection) {
  Channel& channel = connection.neighbour.channel;
  while (!connection.over) {
    const auto into = std::as_writable_bytes(std::span(&connection.incoming, 1));
    const Result<std::size_t> got = channel.Read(into.subspan(connection.received));
    if (!got) {
      Lose(connection, fmt::format("is gone: {}", got.error().message()));
      return;
    }
    if (*got == 0) break;
    connection.heard = Now();
    connection.received += *got;
    if (connection.received < sizeof(HeartbeatWord)) continue;
    connection.received = 0;
    if (!Hear(connection, connection.incoming)) connection.over = true;
  }
  if (!connection.over) network_.Rearm(channel.fd());
}

// False when nothing more is expected.
bool Heartbeats::Hear(Connection& connection, const HeartbeatWord& word) {
  if (const Status status = word.Check(); !status.ok()) {
    Lose(connection, status.message());
    return false;
  }
  if (word.kind == HeartbeatWord::Kind::kAbort) {
    board_->Abort(word.origin, word.cause());
    Tell();
  }
  return word.kind != HeartbeatWord::Kind::kGoodbye;
}

// After an abort this may only be a consequence, which the board knows: the first cause stays.
void Heartbeats::Lose(Connection& connection, const std::string& how) {
  connection.over = true;
  const Neighbour& who = connection.neighbour;
  board_->Abort(who.rank, Error(StatusCode::kPeerFailed,
                                "rank {}, which speaks for host {}, {}. Look at that host and at "
                                "the network to it",
                                who.rank, who.host, how));
  Tell();
}

void Heartbeats::Tell() {
  const HeartbeatWord word = HeartbeatWord::Abort(board_->abort_origin(), board_->abort_status());
  const std::lock_guard lock(mutex_);
  if (std::exchange(told_, true)) return;
  for (const auto& each : connections_) Say(*each, word);
}

void Heartbeats::SayGoodbye() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(goodbye_, true)) return;
  for (const auto& each : connections_) Say(*each, {.kind = HeartbeatWord::Kind::kGoodbye});
}

}  // namespace hora
