// Which named tensors are ready on every rank: a pure state machine, events in, actions out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/negotiation/pending_submissions.h"
#include "hora/negotiation/readiness_table.h"
#include "hora/negotiation/response_cache.h"
#include "hora/negotiation/slot_history.h"
#include "hora/negotiation/stall_detector.h"
#include "hora/negotiation/tree_position.h"
#include "hora/tensor/rank_names.h"
#include "hora/wire/agreed.h"
#include "hora/wire/control_message.h"

namespace hora {

struct NegotiatorOptions {
  TreePosition position;
  std::uint32_t cache_capacity = 4096;  // equal on all ranks
  Duration stall_warning = std::chrono::seconds(10);
  Duration stall_abort = std::chrono::seconds(300);
  RankNames names;  // of the process set's ranks, for messages to people
};

// What the caller must do after feeding events, in this order: send, then execute, then log/fail.
struct NegotiatorActions {
  struct Outgoing {
    int neighbour = -1;  // parent or child rank
    ControlMessage message;
    bool urgent = false;  // wake the neighbour even if it waits for nothing itself
  };
  std::vector<Outgoing> send;
  std::vector<Agreed> execute;  // in the order that is the same on every rank
  // Where each agreement ends in `execute`. How many agreements come together is up to timing, so
  // whatever is computed from agreed data, as batches are, must look at one agreement at a time.
  std::vector<std::size_t> agreement_ends;
  // In force from execute[first] on, on every rank alike.
  struct NewTuning {
    std::size_t first = 0;
    Tuning tuning;
  };
  std::vector<NewTuning> tunings;
  std::vector<StallSummary> stalled;  // to be logged
  // What this rank has pending and can never be agreed.
  struct Rejection {
    std::string name;
    Status status;
    TensorEntry* entry = nullptr;
  };
  std::vector<Rejection> reject;
  Status failure;  // not OK: fail closed, nothing else will be agreed

  bool empty() const;
  void clear();
};

// Owns the readiness table, the response cache and the stall detector of one rank. Holds no thread,
// socket or clock: one caller at a time, `now` is passed in, the same inputs give the same outputs.
// Nothing blocks. An impossible message from a neighbour sets `failure` and aborts all ranks.
//
// Every rank reports a name to its parent once its whole subtree has submitted it, so that a node
// handles O(fan-out) messages per round, and a node that has submitted nothing itself never has
// anything urgent to do. The root agrees on a name when all its contributors have reported.
class Negotiator {
 public:
  explicit Negotiator(NegotiatorOptions options);
  Negotiator(const Negotiator&) = delete;
  Negotiator& operator=(const Negotiator&) = delete;

  // This rank has submitted `request`; its name is not pending here (the queue checks that). It
  // ends in `execute` or `reject`, with `entry`, unless everything ends in `failure`. A repeat of
  // what is cached is looked at, but neither checked again nor copied.
  void Submit(const Request& request, TimePoint now, TensorEntry* entry = nullptr);

  // Root only: `tuning` goes out with the next agreement.
  void Retune(const Tuning& tuning);

  // A message from the parent or a child.
  void Receive(int neighbour, ControlMessage message, TimePoint now);

  // Time has come for what NextDeadline announced.
  void Tick(TimePoint now);
  TimePoint NextDeadline() const;  // TimePoint::max(): nothing to wait for

  // This rank shuts down. With nothing pending here it is closed at once: nothing can be agreed
  // without it. Otherwise what is pending may still be agreed; keep feeding events until closed().
  void Leave();
  // Some rank's shutdown has taken effect here: all that was pending has been executed or rejected,
  // every later Submit is rejected, and this rank may go once its messages are sent.
  bool closed() const { return closed_by_ >= 0; }

  // This rank's engine cannot go on: all ranks fail with `status`.
  void Fail(Status status);

  // Replaces the contents of `actions` by what the events since the last call require: one
  // Readiness to the parent for all Submits, one Agreement to the children for all that became
  // ready.
  void Take(NegotiatorActions& actions);

  // Names submitted here and not yet agreed.
  std::size_t pending_count() const { return pending_.size(); }
  std::size_t cached_count() const { return cache_.size(); }
  std::uint64_t agreement_count() const { return sequence_; }
  // For tests: equal at equal agreement_count.
  const ResponseCache& cache() const { return cache_; }

 private:
  void On(int child, Readiness readiness, TimePoint now);
  void On(int parent, Agreement agreement, TimePoint now);
  void On(int child, StallReport report, TimePoint now);
  void On(int parent, StallProbe probe, TimePoint now);
  void On(int parent, StallSummary summary, TimePoint now);
  void On(int neighbour, ::hora::Leave leave, TimePoint now);
  void On(int neighbour, Abort abort, TimePoint now);
  void On(int child, Joined joined, TimePoint now);

  // What is contributed by a child, in the words of the negotiator's present state.
  Status CollectSlots(int contributor, const SlotSet& slots, std::uint64_t agreements_seen);
  Status CollectSlot(int contributor, int slot, std::uint64_t agreements_seen);
  Status CollectRequest(int contributor, SubtreeRequest request);
  Status CollectSubtree(int contributor, SubtreeRequest request, std::uint64_t agreements_seen);

  void SubmitAnew(Request request, int slot, TimePoint now, TensorEntry* entry);
  void Decide();           // root: agree on all that is ready
  void ReportReadiness();  // others: tell the parent
  Status Apply(Agreement agreement);
  Status Apply(Response response);
  void Remember(const SharedResponse& response);

  void AddJoined(int rank);
  void EndJoin();
  void RenewJoin();

  void ReportStall(const PendingSubmissions::Record& record, std::uint32_t probe, TimePoint now);
  void HearStall(StallReport report, TimePoint now);
  void AdvanceStalls(TimePoint now);
  void SendStallReports();

  void CloseBy(int rank);
  void Reject(const std::string& name, OpKind kind, TensorEntry* entry);
  void Broadcast(const ControlMessage& message, bool urgent);  // to the children
  void ToParent(ControlMessage message, bool urgent);
  void Blame(int neighbour, const Status& problem);
  void Abandon(Abort abort, int except);

  int ContributorOf(int neighbour) const;  // of a child, else -1
  bool is_root() const { return position_.is_root(); }
  bool failed() const { return !failure_.ok(); }

  TreePosition position_;
  StallLimits limits_;
  RankNames names_;
  std::vector<RankRange> contributors_;
  std::vector<std::uint64_t> seen_by_;  // by contributor: agreements that it had seen last
  ReadinessTable table_;
  ResponseCache cache_;
  SlotHistory history_;
  PendingSubmissions pending_;
  StallDetector stalls_;
  std::vector<StallReport> stall_reports_;  // to the parent
  TimePoint next_reminder_ = TimePoint::max();
  std::uint64_t sequence_ = 0;         // agreements applied
  std::uint64_t join_ended_at_ = 0;    // the agreement on the last join
  int last_joined_ = -1;               // root: of those that have joined
  std::optional<Tuning> next_tuning_;  // root: for the next agreement
  TimePoint now_{};                    // of the last event
  int closed_by_ = -1;                 // the rank that left
  Status failure_;
  NegotiatorActions actions_;
};

}  // namespace hora
