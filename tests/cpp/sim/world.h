// N negotiators in virtual time: everything that happens follows from one seed.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "hora/negotiation/negotiator.h"
#include "sim/ledger.h"
#include "sim/random.h"
#include "sim/workload.h"

namespace hora::sim {

struct WorldOptions {
  WorkloadOptions workload;
  int fan_out = 2;
  std::uint32_t cache_capacity = 4;
  bool lockstep = false;   // a rank begins round n+1 when it has finished round n, as in training
  int max_delay_us = 100;  // of a message; each edge draws its own
  int max_think_us = 50;   // between two submissions of a rank
  int absentees = 0;       // ranks that never submit the last round of the first name
  int leavers = 0;         // ranks that shut down somewhere on the way
  int joins = 0;           // the rounds are parted into so many epochs; each ends in a join
  bool retunes = false;    // the root puts new values into the stream of decisions

  static WorldOptions FromSeed(std::uint64_t seed, int max_size);
  static WorldOptions StallFromSeed(std::uint64_t seed, int max_size);
  static WorldOptions JoinFromSeed(std::uint64_t seed, int max_size);
  std::string ToString() const;
};

// Drives the ranks until nothing happens any more. A rank is what the engine makes of a negotiator:
// it submits, receives, and some time after either it takes its actions.
class World {
 public:
  explicit World(WorldOptions options);

  // The violation, or "".
  std::string Run();
  std::uint64_t events() const { return events_done_; }
  std::uint64_t messages() const { return messages_; }
  std::size_t absences() const { return ledger_.absences(); }

 private:
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  enum class What : std::uint8_t { kSubmit, kDeliver, kProgress, kTick };
  struct Event {
    std::int64_t at = 0;
    std::uint64_t tie = 0;  // events of the same time happen in random order
    What what = What::kSubmit;
    int rank = 0;   // whom it happens to
    int from = -1;  // kDeliver

    bool operator>(const Event& other) const {
      return at != other.at ? at > other.at : tie > other.tie;
    }
  };
  struct Program {                // what a rank still wants to do
    std::vector<int> next_round;  // by name
    int round = 0;                // lockstep: of all names
    int left_to_submit = 0;       // before the end, or before this epoch's join
    int submitted = 0;
    int leave_after = -1;  // submissions; -1: stays
    int think_us = 1;
    bool absent = false;  // of the last round of the first name
    int epoch = 0;
    bool joined = false;
    int late = 0;  // submissions to come after the join, as from another thread
  };
  struct Rank {
    std::unique_ptr<Negotiator> negotiator;
    Program program;
    bool progress_due = false;
    bool asleep = false;  // nothing can be submitted before something completes
    bool leaving = false;
    bool gone = false;
    std::int64_t tick_at_us = kNever;
    std::uint64_t sent = 0;
    std::vector<StallSummary> stalls;
    Status failure;
  };
  struct Edge {
    std::deque<ControlMessage> under_way;
    std::int64_t last_arrival = 0;
    int delay_us = 1;
  };

  void Schedule(What what, int rank, std::int64_t delay, int from = -1);
  void Submit(int rank);
  void SubmitName(int rank, int name);
  void Join(int rank);
  void BeginEpoch(int rank);
  void Executed(int rank, const Response& response);
  void Leave(int rank);
  void Deliver(int rank, int from);
  void Progress(int rank);
  void Tick(int rank);
  void ScheduleTick(int rank);
  void Act(int rank, NegotiatorActions& actions);
  void Send(int from, NegotiatorActions::Outgoing& outgoing);
  void WakeSubmitter(int rank);
  void CheckTuning();
  int ChooseName(int rank);
  bool IsDue(int rank, int name);
  int EndOfEpoch(int epoch) const;  // rounds
  void CheckCounts();
  void CheckStalls();
  Rank& of(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  Edge& EdgeOf(int from, int to);

  WorldOptions options_;
  Random random_;
  Workload workload_;
  Ledger ledger_;
  std::vector<Rank> ranks_;
  std::unordered_map<std::uint64_t, Edge> edges_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  NegotiatorActions actions_;
  std::int64_t now_us_ = 0;
  std::uint64_t events_done_ = 0;
  std::uint64_t messages_ = 0;
  std::uint64_t late_ = 0;
  std::optional<Tuning> wanted_;  // of the root, and not agreed yet
};

}  // namespace hora::sim
