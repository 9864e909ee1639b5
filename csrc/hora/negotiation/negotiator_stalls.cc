// The part of the negotiator that finds out who is missing; stall_detector.h has the root's cases.
#include <algorithm>
#include <utility>

#include "hora/base/format.h"
#include "hora/negotiation/negotiator.h"
#include "hora/negotiation/wording.h"

namespace hora {

void Negotiator::On(int child, StallReport report, TimePoint now) {
  RankSet outside = report.ranks;
  outside.Remove(contributors_[static_cast<std::size_t>(ContributorOf(child))].ToSet());
  if (!outside.empty()) {
    return Blame(child, Status(StatusCode::kInternal,
                               fmt::format("{} wait for {}, which are not below it",
                                           RanksText(outside, names_), Quoted(report.name))));
  }
  HearStall(std::move(report), now);
}

void Negotiator::On(int, StallProbe probe, TimePoint now) {
  Broadcast(probe, true);
  const auto* own = pending_.Find(probe.name, cache_.Find(probe.name));
  if (own != nullptr) ReportStall(*own, probe.probe, now);
}

void Negotiator::On(int, StallSummary summary, TimePoint) {
  Broadcast(summary, true);
  actions_.stalled.push_back(std::move(summary));
}

void Negotiator::Tick(TimePoint now) {
  if (failed() || closed()) return;
  now_ = now;
  const auto* oldest = pending_.oldest();
  if (oldest != nullptr && !is_root() && oldest->since + limits_.abort + limits_.grace <= now) {
    const double seconds = std::chrono::duration<double>(now - oldest->since).count();
    return Fail(Error(StatusCode::kStalled,
                      "rank {} has waited {:.3g} s for {}, and rank {}, which should know who is "
                      "missing, says nothing: it may hang. See its output; increase "
                      "HORA_STALL_ABORT_SECONDS if ranks may be this late.",
                      RankName(position_.rank, names_), seconds, OpText(oldest->kind, oldest->name),
                      RankName(0, names_)));
  }
  if (next_reminder_ <= now) {
    for (const auto* record = oldest; record != pending_.oldest_unreported();
         record = pending_.NewerThan(*record)) {
      ReportStall(*record, 0, now);
    }
    next_reminder_ = now + limits_.warning;
  }
  while (const auto* record = pending_.oldest_unreported()) {
    if (record->since + limits_.warning > now) break;
    ReportStall(*record, 0, now);
    pending_.MarkReported();
    next_reminder_ = now + limits_.warning;
  }
  AdvanceStalls(now);
}

TimePoint Negotiator::NextDeadline() const {
  if (failed() || closed()) return TimePoint::max();
  TimePoint next = is_root() ? stalls_.NextDeadline() : TimePoint::max();
  const auto* oldest = pending_.oldest();
  if (oldest == nullptr) return next;
  const auto* unreported = pending_.oldest_unreported();
  if (unreported != nullptr) next = std::min(next, unreported->since + limits_.warning);
  if (unreported != oldest) next = std::min(next, next_reminder_);
  if (!is_root()) next = std::min(next, oldest->since + limits_.abort + limits_.grace);
  return next;
}

void Negotiator::ReportStall(const PendingSubmissions::Record& record, std::uint32_t probe,
                             TimePoint now) {
  const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(now - record.since);
  HearStall({.name = record.name,
             .kind = record.kind,
             .ranks = RankSet::Of(position_.rank),
             .waited_ms = static_cast<std::uint32_t>(std::max<std::int64_t>(waited.count(), 0)),
             .probe = probe},
            now);
}

void Negotiator::HearStall(StallReport report, TimePoint now) {
  if (is_root()) {
    const auto probe = stalls_.Hear(report, now);
    if (!probe) return;
    Broadcast(*probe, true);
    const auto* own = pending_.Find(probe->name, cache_.Find(probe->name));
    if (own != nullptr) ReportStall(*own, probe->probe, now);
    return;
  }
  // Whole subtrees report at about the same time: one message for all that is in the same Take.
  const auto same = std::find_if(stall_reports_.begin(), stall_reports_.end(), [&](const auto& r) {
    return r.name == report.name && r.probe == report.probe;
  });
  if (same == stall_reports_.end()) {
    stall_reports_.push_back(std::move(report));
    return;
  }
  same->ranks.Add(report.ranks);
  same->waited_ms = std::max(same->waited_ms, report.waited_ms);
}

void Negotiator::SendStallReports() {
  for (StallReport& report : stall_reports_) ToParent(std::move(report), true);
  stall_reports_.clear();
}

void Negotiator::AdvanceStalls(TimePoint now) {
  if (stalls_.size() == 0) return;
  RankSet everybody_else = RankSet::AllOf(position_.size);
  everybody_else.Remove(table_.joined());  // they miss nothing, and have submitted the join
  for (const std::string& name : stalls_.Due(now)) {
    const int slot = cache_.Find(name);
    RankSet submitted = table_.SubmittedRanks(name, slot);
    if (name == kJoinName) submitted.Add(table_.joined());
    auto [step, probe, summary] = stalls_.Advance(name, submitted, everybody_else, now);
    switch (step) {
      case StallDetector::Step::kNothing:
        break;
      case StallDetector::Step::kSummarise:
        Broadcast(summary, true);
        actions_.stalled.push_back(std::move(summary));
        break;
      case StallDetector::Step::kConfirm: {
        Broadcast(probe, true);
        const auto* own = pending_.Find(name, slot);
        if (own != nullptr) ReportStall(*own, probe.probe, now);
        break;
      }
      case StallDetector::Step::kAbort:
        return Fail(
            Status(StatusCode::kStalled, StallAbortText(summary, stalls_.size() - 1, names_)));
    }
  }
}

}  // namespace hora
