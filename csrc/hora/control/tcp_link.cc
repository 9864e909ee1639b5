#include "hora/control/tcp_link.h"

#include <poll.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "hora/base/format.h"
#include "hora/wire/limits.h"

namespace hora {
namespace {

// A length is believed only as far as its bytes have come: memory grows by so much ahead of them.
constexpr std::size_t kGrowth = 64u << 10;

bool IsReady(int fd, short events) {
  pollfd one{fd, events, 0};
  return poll(&one, 1, 0) > 0;
}

}  // namespace

TcpLink::TcpLink(Channel channel, int neighbour, std::shared_ptr<PeerNetwork> network,
                 std::function<void()> wake)
    : channel_(std::move(channel)), neighbour_(neighbour), network_(std::move(network)) {
  network_->Watch(channel_.fd(), std::move(wake));
}

TcpLink::~TcpLink() { network_->Unwatch(channel_.fd()); }

Status TcpLink::Send(std::span<const std::byte> frame, bool /*urgent*/) {
  if (frame.size() > kMaxFrameBytes) {
    return Error(StatusCode::kResource,
                 "a control message of {} bytes to rank {} is too large; at most {} are allowed",
                 frame.size(), neighbour_, kMaxFrameBytes);
  }
  if (!status_.ok() || gone_.load()) return status_;
  const auto length = static_cast<std::uint32_t>(frame.size());
  Keep(std::as_bytes(std::span(&length, 1)));
  Keep(frame);
  Flush();
  return status_;
}

// Together with its length, so that a frame is one record on the wire.
void TcpLink::Keep(std::span<const std::byte> bytes) {
  if (unsent_head_ > unsent_.size() / 2) {
    unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(unsent_head_));
    unsent_head_ = 0;
  }
  unsent_.insert(unsent_.end(), bytes.begin(), bytes.end());
}

bool TcpLink::Flush() {
  while (!gone_.load() && unsent_head_ < unsent_.size()) {
    const auto taken = channel_.Write(std::span<const std::byte>(unsent_).subspan(unsent_head_));
    if (!taken) {
      Lose(taken.error());
      break;
    }
    if (*taken == 0) {
      has_unsent_.store(true);
      return false;
    }
    unsent_head_ += *taken;
  }
  const Result<bool> flushed = gone_.load() ? Result<bool>(true) : channel_.Flush();
  if (!flushed) Lose(flushed.error());
  const bool done = !flushed || *flushed;
  has_unsent_.store(!done);
  if (done) {
    unsent_.clear();
    unsent_head_ = 0;
  }
  return done;
}

void TcpLink::Lose(const Status& cause) {
  gone_.store(true);
  // A process that is gone is reported by those who watch it; anything else is an attack or a bug.
  if (cause.code() != StatusCode::kPeerFailed && status_.ok()) status_ = cause;
}

bool TcpLink::Receive(std::vector<std::byte>& frame) {
  if (!status_.ok() || gone_.load()) return false;
  if (!Take(prefix_, prefix_received_)) return false;
  std::uint32_t length = 0;
  std::memcpy(&length, prefix_, sizeof(length));
  if (length > kMaxFrameBytes) {
    gone_.store(true);
    status_ = Error(StatusCode::kInternal,
                    "rank {} sent a control message of {} bytes; at most {} are allowed",
                    neighbour_, length, kMaxFrameBytes);
    return false;
  }
  while (partial_received_ < length) {
    partial_.resize(std::min<std::size_t>(length, partial_received_ + kGrowth));
    if (!Take(partial_, partial_received_)) return false;
  }
  partial_.resize(length);
  std::swap(frame, partial_);
  partial_received_ = 0;
  prefix_received_ = 0;
  return true;
}

// Fills `to` as far as there is something; true when it is full.
bool TcpLink::Take(std::span<std::byte> to, std::size_t& received) {
  while (received < to.size()) {
    const Result<std::size_t> got = channel_.Read(to.subspan(received));
    if (!got) Lose(got.error());
    has_unread_.store(channel_.HasUnread());
    if (!got || *got == 0) return false;
    received += *got;
  }
  return true;
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
