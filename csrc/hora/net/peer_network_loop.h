// The thread of a peer network, and what it shares with those who call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hora/net/network_thread.h"
#include "hora/net/peer_network.h"
#include "hora/net/peer_network_arrivals.h"
#include "hora/net/peer_network_watches.h"
#include "hora/net/reception.h"

namespace hora {

// What a listener says first on a new channel.
enum class Greeting : std::uint8_t {
  kWelcome = 'W',
  kOtherGeneration = 'G',  // mostly: it has not heard of this one yet
  kNoRoom = 'F',
  kUnknownPurpose = 'P',
};

class PeerNetwork::Loop {
 public:
  Loop(PeerNetworkOptions options, std::unique_ptr<Reception> reception,
       std::unique_ptr<DescriptorWatches> watches);
  ~Loop();

  Status Start();
  int rank() const { return options_.rank; }
  const SocketAddress& address() const { return reception_->address(); }
  DescriptorWatches& watches() { return *watches_; }

  void Begin(std::uint64_t generation, std::vector<SocketAddress> addresses);
  Result<Channel> Connect(int peer, const Purpose& purpose, TimePoint deadline);
  void AskWhileWaiting(std::function<Status()> lost) { lost_ = std::move(lost); }
  void Tick(Duration period, std::function<void()> tick);
  void CloseInForkedChild() noexcept;

 private:
  struct Group {
    std::uint64_t generation = 0;  // 0: not begun
    std::vector<SocketAddress> addresses;
  };

  // On the thread.
  void Run();
  TimePoint TickIfDue();
  void Welcome(Newcomer newcomer);
  void ReceiveNewcomers();
  Greeting Judge(const Newcomer& newcomer, const Group& group);

  // In the caller's.
  Result<Channel> AwaitArrival(int peer, const Purpose& purpose, TimePoint deadline);
  Result<Channel> DialPeer(int peer, const Purpose& purpose, const Group& group,
                           TimePoint deadline);
  // nullopt: not now, for a reason that may pass.
  Result<std::optional<Channel>> TryToDial(int peer, const Purpose& purpose, const Group& group,
                                           TimePoint deadline, std::string& why_not);
  Status Lost() const { return lost_ == nullptr ? Status::Ok() : lost_(); }
  Protection ProtectionFor(const Purpose& purpose) const;
  Status About(int peer, const Purpose& purpose, const Group& group, const Status& cause) const;
  std::shared_ptr<const Group> group();

  const PeerNetworkOptions options_;
  std::unique_ptr<Reception> reception_;  // the thread's
  std::unique_ptr<DescriptorWatches> watches_;
  ArrivedChannels arrivals_;
  std::function<Status()> lost_;  // the caller's

  std::mutex mutex_;  // of what follows
  std::shared_ptr<const Group> group_ = std::make_shared<const Group>();
  Duration tick_period_{};
  std::mutex tick_mutex_;       // held during a tick; taken before mutex_
  std::function<void()> tick_;  // changed with both, called with tick_mutex_
  TimePoint next_tick_ = TimePoint::max();
  std::string turned_away_;

  NetworkThread thread_;  // last: it uses all of the others
};

}  // namespace hora
