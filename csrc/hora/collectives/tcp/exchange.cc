#include "hora/collectives/tcp/exchange.h"

#include <algorithm>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"

namespace hora {
namespace {

// A peer's turn, so that all of them make progress.
constexpr std::size_t kTurnBytes = 512u << 10;
constexpr int kSleepMs = 10;
// A system call for each peer costs as much as many rounds of `pause`.
constexpr int kSpinsPerLook = 8;
// Although bytes move, the group may have ended.
constexpr unsigned kLooksPerQuestion = 64;
// Whoever has ended the group may say so a little later than the sockets.
constexpr Duration kTimeToLearnWhy = std::chrono::seconds(1);

}  // namespace

TcpExchange::TcpExchange(std::vector<std::optional<Channel>> channels, TcpBackendOptions options)
    : options_(std::move(options)), peers_(channels.size()) {
  Check(rank() >= 0 && rank() < size(), "the rank is one of the group");
  for (std::size_t peer = 0; peer < channels.size(); ++peer) {
    Check(channels[peer].has_value() == (static_cast<int>(peer) != rank()),
          "there is a channel to every other rank");
    peers_[peer].channel = std::move(channels[peer]);
  }
  polled_.reserve(peers_.size());
}

void TcpExchange::Begin(std::string_view what) {
  what_ = what;
  for (Peer& peer : peers_) {
    peer.out.Restart();
    peer.in.Restart();
  }
}

void TcpExchange::Send(int peer, ByteStream& stream, std::uint64_t offset, std::uint64_t count) {
  stream.ForEachPiece(offset, count, [&](std::span<std::byte> piece) { Send(peer, piece); });
}

void TcpExchange::Receive(int peer, ByteStream& stream, std::uint64_t offset, std::uint64_t count) {
  stream.ForEachPiece(offset, count, [&](std::span<std::byte> piece) { Receive(peer, piece); });
}

Status TcpExchange::AwaitSent(int peer, std::uint64_t end) {
  return Await([&, &out = At(peer).out] { return out.moved() >= end; });
}

Status TcpExchange::AwaitReceived(int peer, std::uint64_t end) {
  return Await([&, &in = At(peer).in] { return in.moved() >= end; });
}

Status TcpExchange::AwaitSent() {
  return Await([&] { return std::ranges::all_of(peers_, [](Peer& p) { return p.out.idle(); }); });
}

Status TcpExchange::AwaitReceived() {
  return Await([&] { return std::ranges::all_of(peers_, [](Peer& p) { return p.in.idle(); }); });
}

Status TcpExchange::Finish() {
  return Await([&] {
    return std::ranges::all_of(peers_,
                               [](Peer& p) { return p.out.idle() && p.in.idle() && !p.flushing; });
  });
}

Status TcpExchange::Pass() {
  const Result<bool> moved = MoveSome();
  if (!moved) return Broken(failed_peer_, moved.error());
  const Result<bool> gave_way = GiveWay();
  return gave_way ? Status::Ok() : Fail(gave_way.error());
}

template <class Done>
Status TcpExchange::Await(Done done) {
  if (done()) return Status::Ok();
  const SteadyClock& clock = SteadyClock::Instance();
  const int quick_looks = options_.wait.spins / kSpinsPerLook;
  TimePoint idle_since{};
  YieldTurns turns(options_.wait, idle_since);
  int idle_looks = 0;  // one after the other
  for (unsigned looks = 1;; ++looks) {
    const Result<bool> moved = MoveSome();
    if (!moved) return Broken(failed_peer_, moved.error());
    // Also where nothing is left to wait for: whoever is always behind never waits.
    const Result<bool> gave_way = GiveWay();
    if (!gave_way) return Fail(gave_way.error());
    if (done()) return Status::Ok();
    idle_looks = *moved || *gave_way ? 0 : idle_looks + 1;
    if (idle_looks > quick_looks || looks % kLooksPerQuestion == 0) {
      if (Status status = Lost(); !status.ok()) return Fail(std::move(status));
    }
    if (idle_looks <= quick_looks) {
      for (int i = 0; idle_looks > 0 && i < kSpinsPerLook; ++i) CpuRelax();
      continue;
    }
    const TimePoint now = clock.Now();
    if (idle_looks == quick_looks + 1) {
      idle_since = now;
      turns = YieldTurns(options_.wait, now);
    }
    if (now - idle_since > options_.patience) return Fail(Stalled());
    if (!turns.Take(now)) Sleep();
  }
}

Result<bool> TcpExchange::MoveSome() {
  bool any = false;
  // Beginning after this rank, so that not everybody turns to the same peer first.
  for (int distance = 1; distance < size(); ++distance) {
    const int peer = After(distance);
    const Result<bool> moved = MoveSomeWith(At(peer));
    if (!moved) {
      failed_peer_ = peer;
      return moved;
    }
    any = any || *moved;
  }
  return any;
}

Result<bool> TcpExchange::MoveSomeWith(Peer& peer) {
  Result<bool> sent = SendSome(peer);
  if (!sent) return sent;
  Result<bool> received = ReceiveSome(peer);
  if (!received) return received;
  return *sent || *received;
}

Result<bool> TcpExchange::SendSome(Peer& peer) {
  std::size_t moved = 0;
  while (!peer.out.idle() && moved < kTurnBytes) {
    std::span<const std::byte> next = peer.out.NextToSend();
    next = next.first(std::min(next.size(), kTurnBytes));
    const Result<std::size_t> taken = peer.channel->Write(next);
    if (!taken) return hora::Fail(taken.error());
    if (*taken > 0) peer.flushing = true;
    peer.out.Sent(*taken);
    moved += *taken;
    if (*taken < next.size()) break;
  }
  sent_bytes_ += moved;
  if (peer.flushing) {
    const Result<bool> flushed = peer.channel->Flush();
    if (!flushed) return flushed;
    peer.flushing = !*flushed;
  }
  return moved > 0;
}

Result<bool> TcpExchange::ReceiveSome(Peer& peer) {
  std::size_t moved = 0;
  while (!peer.in.idle() && moved < kTurnBytes) {
    std::span<std::byte> next = peer.in.NextToReceive();
    next = next.first(std::min(next.size(), kTurnBytes));
    const Result<std::size_t> got = peer.channel->Read(next);
    if (!got) return hora::Fail(got.error());
    peer.in.Received(next.first(*got));
    moved += *got;
    if (*got < next.size()) break;
  }
  return moved > 0;
}

Result<bool> TcpExchange::GiveWay() {
  if (!options_.interruption.wanted || !options_.interruption.wanted()) return false;
  if (Status status = options_.interruption.give_way(); !status.ok()) {
    return hora::Fail(std::move(status));
  }
  return true;
}

Status TcpExchange::Lost() const { return options_.lost ? options_.lost() : Status::Ok(); }

void TcpExchange::Sleep() {
  polled_.clear();
  for (const Peer& peer : peers_) {
    int events = 0;
    if (!peer.in.idle()) {
      if (peer.channel->HasUnread()) return;
      events |= POLLIN;
    }
    if (!peer.out.idle() || peer.flushing) events |= POLLOUT;
    if (events != 0) polled_.push_back({peer.channel->fd(), static_cast<short>(events), 0});
  }
  poll(polled_.data(), polled_.size(), kSleepMs);
}

Status TcpExchange::Broken(int peer, const Status& cause) {
  Status why;
  const SteadyClock& clock = SteadyClock::Instance();
  const TimePoint end = clock.Now() + kTimeToLearnWhy;
  for (const Peer& other : peers_) {
    if (other.channel) other.channel->Abort();
  }
  while ((why = Lost()).ok() && options_.lost && clock.Now() < end) poll(nullptr, 0, 1);
  if (!why.ok()) return why;
  return Error(
      StatusCode::kPeerFailed,
      "{}: rank {} has lost its connection with rank {}: {}. Look at what that rank or its "
      "host has reported",
      what_, options_.names.Of(rank()), options_.names.Of(peer), cause.message());
}

Status TcpExchange::Stalled() const {
  std::string who;
  for (int peer = 0; peer < size(); ++peer) {
    const Peer& at = At(peer);
    if (at.in.idle() && at.out.idle()) continue;
    who += fmt::format("{}rank {} (has sent {} of {} bytes, taken {} of {})",
                       who.empty() ? "" : ", ", options_.names.Of(peer), at.in.moved(),
                       at.in.queued(), at.out.moved(), at.out.queued());
  }
  return Error(StatusCode::kStalled,
               "{}: no byte has moved for {:.3g} s between rank {} and {}. Rank {} gives up; look "
               "at what those ranks are doing, and at the network between their hosts",
               what_, std::chrono::duration<double>(options_.patience).count(),
               options_.names.Of(rank()), who, options_.names.Of(rank()));
}

Status TcpExchange::Fail(Status status) {
  for (const Peer& peer : peers_) {
    if (peer.channel) peer.channel->Abort();
  }
  return status;
}

}  // namespace hora
