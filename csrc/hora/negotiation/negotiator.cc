#include "hora/negotiation/negotiator.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "hora/base/format.h"
#include "hora/negotiation/request_validator.h"
#include "hora/negotiation/wording.h"
#include "hora/wire/limits.h"

namespace hora {
namespace {

// Far below kMaxFrameBytes: what is ready beyond it goes into a further message.
constexpr std::size_t kMaxBatchBytes = 1u << 20;

std::vector<RankRange> ContributorsOf(const TreePosition& position) {
  std::vector<RankRange> contributors = {{position.rank, position.rank + 1}};
  for (const int child : position.children) contributors.push_back(position.SubtreeOf(child));
  return contributors;
}

// What does not matter for a kind must not make ranks disagree; nor must the number that each rank
// gives its own GPU.
void Normalise(OpParams& params) {
  params.device.index = 0;
  if (params.kind == OpKind::kJoin) params = {.kind = OpKind::kJoin};
  if (params.kind != OpKind::kAllreduce && params.kind != OpKind::kReducescatter) {
    params.reduce_op = ReduceOp::kSum;
    params.prescale = params.postscale = 1.0;
  }
  if (params.kind != OpKind::kBroadcast) params.root_rank = -1;
  if (params.kind == OpKind::kBarrier) params.priority = 0;
  if (params.kind != OpKind::kAllgather && params.kind != OpKind::kAlltoall) return;
  const auto forget_rows = [](Shape& shape) {
    if (shape.rank() >= 1 && shape.dim(0) != 0) shape = shape.WithFirstDim(0);
  };
  forget_rows(params.shape);
  for (TensorSpec& tensor : params.rest) forget_rows(tensor.shape);
}

// The request of one rank.
RequestVariant VariantOf(Request& request, int rank) {
  RequestVariant variant{.params = std::move(request.params), .ranks = RankSet::Of(rank)};
  variant.first_dims.reserve(request.first_dims.size());
  for (const std::int64_t rows : request.first_dims) variant.first_dims.push_back({rank, rows});
  return variant;
}

// For each of the ranks, ascending, one entry per tensor.
bool HasRowsOf(const RequestVariant& variant) {
  const bool gathers = variant.params.kind == OpKind::kAllgather;
  const std::size_t tensors = gathers ? variant.params.tensor_count() : 0;
  const auto& rows = variant.first_dims;
  if (rows.size() != static_cast<std::size_t>(variant.ranks.count()) * tensors) return false;
  if (!gathers) return true;
  std::size_t next = 0;
  for (const int rank : variant.ranks.ranks()) {
    for (std::size_t tensor = 0; tensor < tensors; ++tensor) {
      if (rows[next++].rank != rank) return false;
    }
  }
  return true;
}

Status Impossible(std::string_view what) {
  return Status(StatusCode::kInternal, std::string(what));
}

}  // namespace

bool NegotiatorActions::empty() const {
  return send.empty() && execute.empty() && stalled.empty() && reject.empty() && failure.ok();
}

void NegotiatorActions::clear() {
  send.clear();
  execute.clear();
  agreement_ends.clear();
  tunings.clear();
  stalled.clear();
  reject.clear();
  failure = Status::Ok();
}

Negotiator::Negotiator(NegotiatorOptions options)
    : position_(std::move(options.position)),
      limits_(options.stall_warning, options.stall_abort),
      names_(std::move(options.names)),
      contributors_(ContributorsOf(position_)),
      seen_by_(contributors_.size()),
      table_(contributors_),
      cache_(options.cache_capacity),
      stalls_(limits_) {}

void Negotiator::Submit(const Request& request, TimePoint now, TensorEntry* entry) {
  now_ = now;
  if (failed()) return actions_.reject.push_back({request.name, failure_, entry});
  if (closed()) return Reject(request.name, request.params.kind, entry);
  const int slot = cache_.FindNext(request.name);
  if (slot < 0 || !cache_.Answers(slot, request, position_.rank)) {
    return SubmitAnew(request, slot, now, entry);
  }
  // What equals an agreed operation is valid, and in its normal form.
  pending_.Add(request.name, request.params.kind, slot, now, entry);
  if (Status status = CollectSlot(0, slot, sequence_); !status.ok()) Blame(position_.rank, status);
}

void Negotiator::SubmitAnew(Request request, int slot, TimePoint now, TensorEntry* entry) {
  Status status = CheckRequest(request);
  if (status.ok() &&
      request.first_dims.size() * static_cast<std::size_t>(position_.size) > kMaxRows) {
    status = Error(StatusCode::kInvalidArgument,
                   "{}: {} tensors from each of {} ranks are too many for one group; part it",
                   OpText(request.params.kind, request.name), request.params.tensor_count(),
                   position_.size);
  }
  if (!status.ok()) {
    return actions_.reject.push_back({std::move(request.name), std::move(status), entry});
  }
  Normalise(request.params);
  const bool repeats = slot >= 0 && cache_.Answers(slot, request, position_.rank);
  // By slot also when it is contributed as a request because others ask for something else.
  pending_.Add(request.name, request.params.kind, slot, now, entry);
  if (request.params.kind == OpKind::kJoin) AddJoined(position_.rank);
  if (repeats) {
    status = CollectSlot(0, slot, sequence_);
  } else {
    RequestVariant variant = VariantOf(request, position_.rank);
    status = CollectRequest(0, {std::move(request.name), {std::move(variant)}});
  }
  if (!status.ok()) Blame(position_.rank, status);
}

void Negotiator::Receive(int neighbour, ControlMessage message, TimePoint now) {
  if (failed()) return;
  now_ = now;
  const bool from_parent = neighbour == position_.parent && !is_root();
  if (!from_parent && ContributorOf(neighbour) < 0) {
    return Blame(neighbour, Impossible("it is not a neighbour in the control tree"));
  }
  std::visit(
      [&](auto& body) {
        using Body = std::decay_t<decltype(body)>;
        constexpr bool up = std::is_same_v<Body, Readiness> || std::is_same_v<Body, Joined> ||
                            std::is_same_v<Body, StallReport>;
        constexpr bool both = std::is_same_v<Body, hora::Leave> || std::is_same_v<Body, Abort>;
        if (!both && up == from_parent) {
          return Blame(neighbour, Impossible(up ? "a parent reports to its child"
                                                : "a child decides for its parent"));
        }
        // Only an abort can still mean something to a rank that nothing can be agreed with.
        if (closed() && !std::is_same_v<Body, Abort>) return;
        On(neighbour, std::move(body), now);
      },
      message);
}

void Negotiator::On(int child, Readiness readiness, TimePoint) {
  const int contributor = ContributorOf(child);
  std::uint64_t& seen = seen_by_[static_cast<std::size_t>(contributor)];
  if (readiness.agreements_seen < seen || readiness.agreements_seen > sequence_) {
    return Blame(child, Impossible(fmt::format("it has seen {} agreements, after {} and of {}",
                                               readiness.agreements_seen, seen, sequence_)));
  }
  seen = readiness.agreements_seen;
  Status status = CollectSlots(contributor, readiness.cached, seen);
  for (SubtreeRequest& request : readiness.requests) {
    if (!status.ok()) break;
    status = CollectSubtree(contributor, std::move(request), seen);
  }
  if (!status.ok()) return Blame(child, status);
  if (history_.size() > 0) {
    history_.Forget(*std::min_element(seen_by_.begin() + 1, seen_by_.end()));
  }
}

void Negotiator::On(int parent, Agreement agreement, TimePoint) {
  if (agreement.sequence != sequence_ + 1) {
    return Blame(parent, Impossible(fmt::format("agreement {} follows agreement {}",
                                                agreement.sequence, sequence_)));
  }
  Broadcast(agreement, false);
  if (Status status = Apply(std::move(agreement)); !status.ok()) Blame(parent, status);
}

void Negotiator::On(int neighbour, hora::Leave leave, TimePoint) {
  if (neighbour == position_.parent) {
    if (leave.rank >= position_.size) {
      return Blame(neighbour, Impossible(fmt::format("rank {} has left", leave.rank)));
    }
    return CloseBy(leave.rank);
  }
  const auto contributor = static_cast<std::size_t>(ContributorOf(neighbour));
  if (!contributors_[contributor].Contains(leave.rank)) {
    return Blame(neighbour, Impossible(fmt::format("rank {} has left, which is not below it",
                                                   RankName(leave.rank, names_))));
  }
  if (is_root()) return CloseBy(leave.rank);
  ReportReadiness();
  ToParent(leave, true);
}

void Negotiator::On(int neighbour, Abort abort, TimePoint) { Abandon(std::move(abort), neighbour); }

Status Negotiator::CollectSlots(int contributor, const SlotSet& slots,
                                std::uint64_t agreements_seen) {
  const auto& words = slots.words();
  const auto& expanded = table_.expanded();
  bool plain = agreements_seen >= history_.last_change() && cache_.ContainsAll(slots) &&
               table_.joined().empty();
  for (std::size_t i = 0; plain && i < std::min(words.size(), expanded.size()); ++i) {
    plain = (words[i] & expanded[i]) == 0;
  }
  if (plain) return table_.AddSlots(contributor, slots);
  for (std::size_t i = 0; i < words.size(); ++i) {
    for (std::uint64_t rest = words[i]; rest != 0; rest &= rest - 1) {
      const int slot = static_cast<int>(i) * 64 + std::countr_zero(rest);
      if (Status status = CollectSlot(contributor, slot, agreements_seen); !status.ok()) {
        return status;
      }
    }
  }
  return Status::Ok();
}

Status Negotiator::CollectSlot(int contributor, int slot, std::uint64_t agreements_seen) {
  const auto [meaning, evicted] = history_.Find(slot, agreements_seen);
  if (meaning == SlotHistory::Meaning::kEvicted) {
    return CollectRequest(contributor, table_.Repeat(contributor, *evicted));
  }
  if (meaning == SlotHistory::Meaning::kNone || !cache_.Contains(slot)) {
    return Impossible(
        fmt::format("cache slot {} holds nothing after {} agreements", slot, agreements_seen));
  }
  if (table_.IsExpanded(slot) || !table_.joined().empty()) {
    return CollectRequest(contributor, table_.Repeat(contributor, cache_.at(slot)));
  }
  return table_.AddSlot(contributor, slot);
}

Status Negotiator::CollectRequest(int contributor, SubtreeRequest request) {
  const int slot = cache_.Find(request.name);
  if (slot >= 0 && !table_.IsExpanded(slot)) table_.Expand(slot, cache_.at(slot));
  return table_.AddRequest(contributor, std::move(request));
}

// With joined ranks below, a request may leave them out.
Status Negotiator::CollectSubtree(int contributor, SubtreeRequest request,
                                  std::uint64_t agreements_seen) {
  const RankSet subtree = contributors_[static_cast<std::size_t>(contributor)].ToSet();
  const bool joins = request.name == kJoinName;
  RankSet ranks;
  int count = 0;
  for (const RequestVariant& variant : request.variants) {
    ranks.Add(variant.ranks);
    count += variant.ranks.count();
    if (!HasRowsOf(variant) || (variant.params.kind == OpKind::kJoin) != joins) {
      return Impossible(fmt::format("first dimensions or kind of {}", Quoted(request.name)));
    }
  }
  const bool everybody = count == ranks.count() && ranks == subtree;
  if (everybody && !joins) return CollectRequest(contributor, std::move(request));
  RankSet left_out = subtree;
  left_out.Remove(ranks);
  const bool outdated = agreements_seen < join_ended_at_ && !left_out.empty();
  if (!outdated) left_out.Remove(table_.joined());
  RankSet outside = ranks;
  outside.Remove(subtree);
  const bool may_leave_out = !joins && (outdated || left_out.empty());
  const bool possible =
      everybody || (!ranks.empty() && count == ranks.count() && outside.empty() && may_leave_out);
  if (!possible) {
    return Impossible(fmt::format("{} is requested for {}, not once for each of {}",
                                  Quoted(request.name), RanksText(ranks, names_),
                                  RanksText(subtree, names_)));
  }
  RankSet silent = subtree;
  silent.Remove(table_.joined());
  if (joins && !silent.empty()) {
    return Impossible(fmt::format("{} has not said that it joined", RanksText(silent, names_)));
  }
  // The child has not heard yet that the join is over; when it does, it takes this back.
  if (outdated) return Status::Ok();
  return CollectRequest(contributor, std::move(request));
}

void Negotiator::Decide() {
  while (table_.has_ready()) {
    Agreement agreement{.sequence = sequence_ + 1, .cached = table_.TakeSlots()};
    for (SubtreeRequest& request : table_.TakeRequests(kMaxBatchBytes)) {
      Response response = hora::Decide(std::move(request), position_.size, names_);
      if (response.params.kind == OpKind::kJoin) response.params.root_rank = last_joined_;
      agreement.responses.push_back(std::move(response));
    }
    agreement.tuning = std::exchange(next_tuning_, std::nullopt);
    Broadcast(agreement, false);
    if (Status status = Apply(std::move(agreement)); !status.ok()) {
      return Blame(position_.rank, status);
    }
  }
}

void Negotiator::ReportReadiness() {
  while (table_.has_ready()) {
    SlotSet cached = table_.TakeSlots();
    ToParent(Readiness{sequence_, std::move(cached), table_.TakeRequests(kMaxBatchBytes)}, false);
  }
}

Status Negotiator::Apply(Agreement agreement) {
  sequence_ = agreement.sequence;
  if (!table_.AgreeSlots(agreement.cached)) {
    return Impossible("it agrees on a cache slot that was not reported ready");
  }
  if (agreement.tuning) actions_.tunings.push_back({actions_.execute.size(), *agreement.tuning});
  const auto& words = agreement.cached.words();
  for (std::size_t i = 0; i < words.size(); ++i) {
    for (std::uint64_t rest = words[i]; rest != 0; rest &= rest - 1) {
      const int slot = static_cast<int>(i) * 64 + std::countr_zero(rest);
      cache_.Touch(slot);
      if (stalls_.size() != 0) stalls_.Agreed(cache_.at(slot).name);
      actions_.execute.push_back({cache_.shared(slot), pending_.TakeSlot(slot)});
    }
  }
  for (Response& response : agreement.responses) {
    if (Status status = Apply(std::move(response)); !status.ok()) return status;
  }
  actions_.agreement_ends.push_back(actions_.execute.size());
  if (!table_.joined().empty()) RenewJoin();
  return Status::Ok();
}

Status Negotiator::Apply(Response response) {
  const bool gathers = response.params.kind == OpKind::kAllgather && response.error.ok();
  const auto size = static_cast<std::size_t>(position_.size);
  if (response.first_dims.size() != (gathers ? size * response.params.tensor_count() : 0)) {
    return Impossible(fmt::format("first dimensions of {}", Quoted(response.name)));
  }
  const bool joins = response.params.kind == OpKind::kJoin;
  const bool somebody =
      response.params.root_rank >= 0 && response.params.root_rank < position_.size;
  RankSet nobody = response.absent;
  if (!nobody.empty()) nobody.Remove(RankSet::AllOf(position_.size));
  if (!nobody.empty() || (joins && !somebody)) {
    return Impossible(fmt::format("ranks of {}", Quoted(response.name)));
  }
  const int slot = cache_.Find(response.name);
  if (!table_.AgreeName(response.name, slot, response.absent)) {
    return Impossible(
        fmt::format("it agrees on {}, which was not reported ready", Quoted(response.name)));
  }
  const auto shared = std::make_shared<const Response>(std::move(response));
  const bool takes_part = !shared->absent.Contains(position_.rank);
  TensorEntry* const entry = takes_part ? pending_.Take(shared->name, slot) : nullptr;
  actions_.execute.push_back({shared, entry});
  stalls_.Agreed(shared->name);
  if (joins) {
    EndJoin();
  } else if (!shared->absent.empty()) {
    // The next one will be another: it is not remembered, and nothing is forgotten for it.
  } else if (shared->error.ok()) {
    Remember(shared);
  } else if (slot >= 0) {
    cache_.Erase(slot);
    history_.Changed(slot, sequence_);
  }
  return Status::Ok();
}

void Negotiator::Remember(const SharedResponse& response) {
  auto [slot, evicted] = cache_.Insert(response);
  if (slot < 0) return;
  history_.Changed(slot, sequence_);
  if (evicted == nullptr) return;
  // The bits of the evicted name that are already here, and those that children still send, keep
  // their meaning as requests; nobody has to contribute again.
  table_.Expand(slot, *evicted);
  table_.ForgetSlot(slot);
  pending_.SlotEvicted(slot);
  if (!position_.children.empty()) history_.Evicted(slot, sequence_, std::move(evicted));
}

void Negotiator::Leave() {
  if (failed() || closed()) return;
  if (is_root()) return CloseBy(position_.rank);
  ReportReadiness();
  ToParent(hora::Leave{position_.rank}, true);
  if (pending_.size() == 0) CloseBy(position_.rank);
}

void Negotiator::CloseBy(int rank) {
  if (is_root()) Decide();
  if (failed()) return;
  Broadcast(hora::Leave{rank}, true);
  closed_by_ = rank;
  for (const auto* record = pending_.oldest(); record != nullptr;
       record = pending_.NewerThan(*record)) {
    Reject(record->name, record->kind, record->entry);
  }
  pending_.Clear();
  table_.Clear();
  stalls_.Clear();
  stall_reports_.clear();
}

void Negotiator::Reject(const std::string& name, OpKind kind, TensorEntry* entry) {
  Status status =
      closed_by_ == position_.rank
          ? Error(StatusCode::kShutDown,
                  "this rank has shut down while {} was waiting for other ranks",
                  OpText(kind, name))
          : Error(
                StatusCode::kShutDown,
                "rank {} has shut down while {} was waiting for it. Let every rank submit the same "
                "operations before it shuts down.",
                RankName(closed_by_, names_), OpText(kind, name));
  actions_.reject.push_back({name, std::move(status), entry});
}

void Negotiator::Fail(Status status) { Abandon({position_.rank, std::move(status)}, -1); }

void Negotiator::Take(NegotiatorActions& actions) {
  if (!failed()) {
    if (is_root()) {
      Decide();
    } else {
      ReportReadiness();
      SendStallReports();
    }
  }
  actions.clear();
  std::swap(actions, actions_);
}

void Negotiator::Broadcast(const ControlMessage& message, bool urgent) {
  for (const int child : position_.children) actions_.send.push_back({child, message, urgent});
}

void Negotiator::ToParent(ControlMessage message, bool urgent) {
  actions_.send.push_back({position_.parent, std::move(message), urgent});
}

void Negotiator::Blame(int neighbour, const Status& problem) {
  Fail(Error(StatusCode::kInternal, "rank {} cannot follow the negotiation with rank {}: {}",
             RankName(position_.rank, names_), RankName(neighbour, names_), problem.message()));
}

void Negotiator::Abandon(Abort abort, int except) {
  if (failed()) return;
  failure_ = abort.status;
  actions_.failure = abort.status;
  for (const int child : position_.children) {
    if (child != except) actions_.send.push_back({child, abort, true});
  }
  if (!is_root() && position_.parent != except) ToParent(std::move(abort), true);
}

int Negotiator::ContributorOf(int neighbour) const {
  const auto& children = position_.children;
  const auto found = std::lower_bound(children.begin(), children.end(), neighbour);
  if (found == children.end() || *found != neighbour) return -1;
  return static_cast<int>(found - children.begin()) + 1;
}

}  // namespace hora
