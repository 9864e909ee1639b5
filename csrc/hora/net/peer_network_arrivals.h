// Channels that peers have opened and nobody has asked for yet.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "hora/base/clock.h"
#include "hora/net/channel.h"
#include "hora/net/forked_descriptors.h"
#include "hora/net/handshake.h"

namespace hora {

// One of each kind from each peer, and a bounded number of all. Any thread.
class ArrivedChannels {
 public:
  static constexpr std::size_t kMost = 4096;

  bool HasRoom();
  // Takes the place of an earlier one: its dialler has given up and tries again.
  void Put(int peer, const Purpose& purpose, Channel channel);
  // Waits for it; nullopt at the deadline or after Close. One whose other end has gone meanwhile
  // does not count.
  std::optional<Channel> Take(int peer, const Purpose& purpose, TimePoint deadline);
  void Close();  // nobody waits any more

  void CloseInForkedChild() const noexcept { descriptors_.CloseAll(); }

 private:
  using Key = std::pair<int, Purpose>;

  std::optional<Channel> Find(const Key& key);

  std::mutex mutex_;
  std::condition_variable arrived_;
  bool closed_ = false;
  std::map<Key, Channel> channels_;
  ForkedDescriptors descriptors_{kMost};
};

}  // namespace hora
