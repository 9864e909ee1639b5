#include "hora/control/heartbeats.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr int kBeatsPerSilence = 4;
constexpr std::size_t kTextBytes = 512;

enum class Kind : std::uint8_t { kBeat = 1, kGoodbye = 2, kAbort = 3 };

TimePoint Now() { return SteadyClock::Instance().Now(); }

}  // namespace

// Of one size: nothing to parse but four numbers.
struct Heartbeats::Word {
  Kind kind = Kind::kBeat;
  StatusCode code = StatusCode::kOk;
  std::uint16_t text_bytes = 0;
  std::int32_t origin = -1;
  char text[kTextBytes] = {};
};

struct Heartbeats::Connection {
  explicit Connection(Neighbour who) : neighbour(std::move(who)) {}

  Neighbour neighbour;
  std::vector<std::byte> unsent;  // mutex_
  Word incoming;                  // the network's thread, as all below
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
    if (!goodbye_) Say(*each, Word{});
  }
}

void Heartbeats::Say(Connection& connection, const Word& word) {
  // A neighbour that does not read is told nothing new: it is silent itself, or soon will be.
  constexpr std::size_t kMostUnsent = 8 * sizeof(Word);
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
    if (connection.received < sizeof(Word)) continue;
    connection.received = 0;
    if (!Hear(connection, connection.incoming)) connection.over = true;
  }
  if (!connection.over) network_.Rearm(channel.fd());
}

// False when nothing more is expected.
bool Heartbeats::Hear(Connection& connection, const Word& word) {
  switch (word.kind) {
    case Kind::kBeat:
      return true;
    case Kind::kGoodbye:
      return false;
    case Kind::kAbort: {
      const std::size_t bytes = std::min<std::size_t>(word.text_bytes, kTextBytes);
      board_->Abort(word.origin, Status(word.code, std::string(word.text, bytes)));
      Tell();
      return true;
    }
  }
  Lose(connection, fmt::format("sent {} where only a beat, an abort or a goodbye is allowed",
                               static_cast<int>(word.kind)));
  return false;
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
  const Status cause = board_->abort_status();
  Word word{.kind = Kind::kAbort, .code = cause.code(), .origin = board_->abort_origin()};
  word.text_bytes = static_cast<std::uint16_t>(std::min(cause.message().size(), kTextBytes));
  std::memcpy(word.text, cause.message().data(), word.text_bytes);
  const std::lock_guard lock(mutex_);
  if (std::exchange(told_, true)) return;
  for (const auto& each : connections_) Say(*each, word);
}

void Heartbeats::SayGoodbye() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(goodbye_, true)) return;
  for (const auto& each : connections_) Say(*each, Word{.kind = Kind::kGoodbye});
}

}  // namespace hora
