#include "hora/net/channel.h"

#include <sys/socket.h>

#include <utility>

#include "hora/base/format.h"
#include "hora/net/records.h"
#include "hora/net/socket_io.h"
#include "hora/net/tcp_socket.h"

namespace hora {

Channel::Channel(UniqueFd socket, Protection protection, std::unique_ptr<Records> records)
    : socket_(std::move(socket)), protection_(protection), records_(std::move(records)) {
  records_->peer_ = PeerName(socket_.get());
}

Channel::Channel(Channel&&) noexcept = default;
Channel& Channel::operator=(Channel&&) noexcept = default;
Channel::~Channel() = default;

template <class T>
Result<T> Channel::Answer(Result<T> result) const {
  if (records_->aborted_.load(std::memory_order_relaxed)) {
    return Fail(Error(StatusCode::kPeerFailed, "{}: this process has given the connection up",
                      records_->peer_));
  }
  if (!result) return Fail(AboutPeer(records_->peer_, result.error()));
  return result;
}

Result<std::size_t> Channel::Write(std::span<const std::byte> bytes) {
  return Answer(bytes.empty() ? 0 : records_->Write(socket_.get(), bytes));
}

Result<std::size_t> Channel::Read(std::span<std::byte> into) {
  return Answer(into.empty() ? 0 : records_->Read(socket_.get(), into));
}

Result<bool> Channel::Flush() { return Answer(records_->Flush(socket_.get())); }

bool Channel::HasUnread() const { return records_->HasUnread(); }

void Channel::Abort() const noexcept {
  records_->aborted_.store(true, std::memory_order_relaxed);
  shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace hora
