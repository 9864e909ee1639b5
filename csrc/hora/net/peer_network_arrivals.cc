#include "hora/net/peer_network_arrivals.h"

#include "hora/net/network_thread.h"

namespace hora {

bool ArrivedChannels::HasRoom() {
  const std::lock_guard lock(mutex_);
  return channels_.size() < kMost;
}

void ArrivedChannels::Put(int peer, const Purpose& purpose, Channel channel) {
  {
    const std::lock_guard lock(mutex_);
    const Key key{peer, purpose};
    if (const auto earlier = channels_.find(key); earlier != channels_.end()) {
      descriptors_.Remove(earlier->second.fd());
      channels_.erase(earlier);
    }
    descriptors_.Add(channel.fd());
    channels_.emplace(key, std::move(channel));
  }
  arrived_.notify_all();
}

std::optional<Channel> ArrivedChannels::Take(int peer, const Purpose& purpose, TimePoint deadline) {
  const Key key{peer, purpose};
  std::optional<Channel> channel;
  std::unique_lock lock(mutex_);
  arrived_.wait_until(lock, deadline, [&] {
    channel = Find(key);
    return channel.has_value() || closed_;
  });
  return channel;
}

std::optional<Channel> ArrivedChannels::Find(const Key& key) {
  const auto found = channels_.find(key);
  if (found == channels_.end()) return std::nullopt;
  descriptors_.Remove(found->second.fd());
  std::optional<Channel> channel(std::move(found->second));
  channels_.erase(found);
  if (HasClosed(channel->fd())) channel.reset();
  return channel;
}

void ArrivedChannels::Close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  arrived_.notify_all();
}

}  // namespace hora
