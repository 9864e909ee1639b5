// The part of the negotiator that goes on without ranks that have no more data; readiness_table.h
// says how they are counted, docs/concepts/negotiation.md why nothing that they submitted is lost.
#include <string>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/negotiation/negotiator.h"
#include "hora/negotiation/wording.h"

namespace hora {

void Negotiator::On(int child, Joined joined, TimePoint) {
  const auto contributor = static_cast<std::size_t>(ContributorOf(child));
  const bool below = contributors_[contributor].Contains(joined.rank);
  if (!below || table_.joined().Contains(joined.rank)) {
    return Blame(child,
                 Error(StatusCode::kInternal, "rank {} has joined, which {}",
                       RankName(joined.rank, names_), below ? "it had before" : "is not below it"));
  }
  AddJoined(joined.rank);
}

// The message goes up before the first request that leaves the rank out, on the same link. The join
// itself follows later, as a request like others, behind all that its subtree has submitted.
void Negotiator::AddJoined(int rank) {
  if (table_.joined().empty()) {
    for (const int slot : table_.open_slots().ranks()) table_.Expand(slot, cache_.at(slot));
  }
  table_.AddJoined(rank);
  if (is_root()) {
    last_joined_ = rank;
  } else {
    ToParent(Joined{rank}, true);
  }
}

// The root agrees on a join after all else that is ready, so nothing follows it in its agreement.
void Negotiator::EndJoin() {
  join_ended_at_ = sequence_;
  table_.EndJoin();
}

// To wait in a join while the others go on is no stall.
void Negotiator::RenewJoin() {
  const std::string name(kJoinName);
  if (table_.joined().Contains(position_.rank)) pending_.Renew(name, now_);
  stalls_.Agreed(name);
}

void Negotiator::Retune(const Tuning& tuning) {
  Check(is_root(), "the root of a process set tunes it");
  next_tuning_ = tuning;
}

}  // namespace hora
