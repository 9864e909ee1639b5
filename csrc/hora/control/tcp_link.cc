#include "hora/control/tcp_link.h"

#include <poll.h>

#include <utility>

namespace hora {
namespace {

bool IsReady(int fd, short events) {
  pollfd one{fd, events, 0};
  return poll(&one, 1, 0) > 0;
}

}  // namespace

TcpLink::TcpLink(Channel channel, int neighbour, std::shared_ptr<PeerNetwork> network,
                 std::function<void()> wake)
    : channel_(std::move(channel)),
      neighbour_(neighbour),
      network_(std::move(network)),
      reader_(neighbour) {
  network_->Watch(channel_.fd(), std::move(wake));
}

TcpLink::~TcpLink() { network_->Unwatch(channel_.fd()); }

Status TcpLink::Send(std::span<const std::byte> frame, bool /*urgent*/) {
  if (Status status = CheckFrame(frame, neighbour_); !status.ok()) return status;
  if (!status_.ok() || gone_.load()) return status_;
  // Together with its length, so that a frame is one record on the wire.
  unsent_.Keep(PrefixOf(frame));
  unsent_.Keep(frame);
  Flush();
  return status_;
}

bool TcpLink::Flush() {
  while (!gone_.load() && !unsent_.empty()) {
    const auto taken = channel_.Write(unsent_.bytes());
    if (!taken) {
      Lose(taken.error());
      break;
    }
    if (*taken == 0) {
      has_unsent_.store(true);
      return false;
    }
    unsent_.Drop(*taken);
  }
  if (gone_.load()) unsent_.Clear();
  const Result<bool> flushed = gone_.load() ? Result<bool>(true) : channel_.Flush();
  if (!flushed) Lose(flushed.error());
  const bool done = !flushed || *flushed;
  has_unsent_.store(!done);
  return done;
}

void TcpLink::Lose(const Status& cause) {
  gone_.store(true);
  // A process that is gone is reported by those who watch it; anything else is an attack or a bug.
  if (cause.code() != StatusCode::kPeerFailed && status_.ok()) status_ = cause;
}

bool TcpLink::Receive(std::vector<std::byte>& frame) {
  if (!status_.ok() || gone_.load()) return false;
  const bool received =
      reader_.Receive([this](std::span<std::byte> to) { return Take(to); }, frame, status_);
  if (!status_.ok()) gone_.store(true);
  return received;
}

std::size_t TcpLink::Take(std::span<std::byte> to) {
  const Result<std::size_t> got = channel_.Read(to);
  if (!got) Lose(got.error());
  has_unread_.store(channel_.HasUnread());
  return got.value_or(0);
}

bool TcpLink::NeedsAttention() const {
  if (gone_.load()) return false;
  if (has_unread_.load() || IsReady(channel_.fd(), POLLIN)) return true;
  return has_unsent_.load() && IsReady(channel_.fd(), POLLOUT);
}

void TcpLink::Arm() {
  if (!gone_.load()) network_->Rearm(channel_.fd());
}

}  // namespace hora
