// Who has come to the meeting of a job: what the store decides, without sockets.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/rank_set.h"
#include "hora/base/status.h"
#include "hora/wire/store_message.h"

namespace hora {

// One meeting after the other. A rank leaves when it gives up or its connection ends. One thread;
// nothing blocks.
class StoreGathering {
 public:
  using MemberId = std::uint64_t;  // of a connection

  // Answers for members that have waited. All of them get the same.
  struct Outcome {
    std::vector<MemberId> members;
    StoreMessage answer;
  };

  // Generations begin above `base`.
  explicit StoreGathering(std::uint64_t base) : generation_(base) {}

  // A rank has come. Members that it takes the place of (the same client, which tries again) get
  // no answer. nullopt: it waits, and so do the others.
  std::optional<Outcome> Come(MemberId member, MeetRequest request, const std::string& address,
                              TimePoint now);
  void Leave(MemberId member);  // its connection has ended
  // The job cannot meet for this reason; who waits and who comes in the next seconds gets it. Only
  // until a first meeting has ended, as the reason may be a recorded hello that a stranger repeats:
  // so he can keep a job from starting, which he could by dropping packets too, but end none.
  Outcome Refuse(Status status, TimePoint now);
  // The same said by a member; -1: by no rank. A rank may mend what is wrong, and begin again.
  Outcome Report(int rank, Status status, TimePoint now);
  // Its patience has ended: it leaves, with this.
  Status GiveUp(MemberId member, TimePoint now);

  // A connection claims this rank, and waits.
  std::optional<MemberId> WaitingAs(int rank) const;

 private:
  struct Member {
    MemberId id = 0;
    std::uint64_t client = 0;
    std::string tells;
    std::string address;
    TimePoint since;
  };
  // Members that come late are told, too; who has been told may begin again.
  struct Failure {
    Status status;
    RankSet told;
    TimePoint until;
  };

  Outcome Complete();
  RankSet ToldOfFailure(TimePoint now) const;
  Outcome FailAll(MemberId member, int rank, Status status, TimePoint now);
  Outcome FailPresent(Status status, RankSet told, TimePoint until);
  std::string Fate(const RankSet& missing) const;

  std::uint64_t generation_;
  int size_ = 0;                     // as the first who is present says
  std::string size_from_;            // its address
  std::map<int, Member> present_;    // by rank
  std::map<int, std::string> left_;  // since the last meeting: how
  std::optional<Failure> failure_;
  bool has_met_ = false;  // once
};

}  // namespace hora
