// The thread of a store: members, what they wait for, and the keys.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "hora/net/forked_descriptors.h"
#include "hora/net/network_thread.h"
#include "hora/net/reception.h"
#include "hora/net/store_gathering.h"
#include "hora/net/store_server.h"
#include "hora/net/store_stream.h"

namespace hora {

// Start and the destructor are the owner's; everything else happens on the thread.
class StoreServer::Loop {
 public:
  explicit Loop(std::unique_ptr<Reception> reception);
  ~Loop();

  Status Start();
  const SocketAddress& address() const { return reception_->address(); }
  void CloseInForkedChild() noexcept;

 private:
  using MemberId = StoreGathering::MemberId;
  enum class Waits : std::uint8_t { kNot, kForMeeting, kForKey };
  struct Member {
    StoreStream stream;
    std::string address;
    int rank = -1;
    Waits waits = Waits::kNot;
    TimePoint asked;
    TimePoint answer_by;  // while it waits
    std::string key;      // kForKey
  };

  void Run();
  TimePoint WaitForEvents(std::vector<MemberId>& ready);
  void Welcome(Newcomer newcomer);
  void Serve(MemberId id);
  Status Listen(MemberId id, Member& member);  // to all that it has said
  void Answer(MemberId id, const StoreMessage& answer);
  void Deliver(const StoreGathering::Outcome& outcome);
  void Send(MemberId id, const StoreFrame& frame);
  void TellOfMisfit();
  void ExpirePatience(TimePoint now);
  void Drop(MemberId id);
  void SayGoodbye();

  Status Handle(MemberId id, Member& member, MeetRequest request);
  Status Handle(MemberId id, Member& member, SetRequest request);
  Status Handle(MemberId id, Member& member, GetRequest request);

  std::unique_ptr<Reception> reception_;
  ForkedDescriptors descriptors_;
  StoreGathering gathering_;
  std::map<MemberId, Member> members_;
  MemberId next_id_ = 1;
  std::unordered_map<std::string, std::string> values_;
  std::size_t value_bytes_ = 0;
  NetworkThread thread_;  // last: it uses all of the others
};

}  // namespace hora
