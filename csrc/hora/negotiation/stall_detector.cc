#include "hora/negotiation/stall_detector.h"

#include <algorithm>
#include <limits>

#include "hora/base/format.h"
#include "hora/negotiation/wording.h"

namespace hora {
namespace {

constexpr std::size_t kMaxCases = 4096;  // further ones are heard again once these are over
constexpr Duration kLongest = std::chrono::hours(24 * 365 * 10);  // keeps sums of times in range

std::uint32_t Milliseconds(Duration waited) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(waited).count();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(ms, 0, std::numeric_limits<std::uint32_t>::max()));
}

}  // namespace

StallLimits::StallLimits(Duration warning_after, Duration abort_after)
    : warning(std::min({warning_after, abort_after, kLongest})),
      abort(std::min(abort_after, kLongest)),
      grace(std::min<Duration>(warning / 4, std::chrono::milliseconds(250))) {}

std::optional<StallProbe> StallDetector::Hear(const StallReport& report, TimePoint now) {
  const auto known = cases_.find(report.name);
  if (known == cases_.end()) {
    // An answer without a case is late.
    if (report.probe != 0 || cases_.size() == kMaxCases) return std::nullopt;
    cases_[report.name] = {
        .kind = report.kind, .probe = ++probes_, .since = now, .due = now + limits_.grace};
    return StallProbe{report.name, probes_};
  }
  Case& open = known->second;
  if (report.probe == open.probe) {
    open.answered.Add(report.ranks);
    open.since = std::min(open.since, now - std::chrono::milliseconds(report.waited_ms));
  }
  return std::nullopt;
}

TimePoint StallDetector::NextDeadline() const {
  TimePoint next = TimePoint::max();
  for (const auto& [name, open] : cases_) next = std::min(next, open.due);
  return next;
}

std::vector<std::string> StallDetector::Due(TimePoint now) const {
  std::vector<std::string> due;
  for (const auto& [name, open] : cases_) {
    if (open.due <= now) due.push_back(name);
  }
  return due;
}

StallDetector::Verdict StallDetector::Advance(const std::string& name, const RankSet& submitted,
                                              const RankSet& all, TimePoint now) {
  Case& open = cases_.at(name);
  if (open.stage == Stage::kReported) {
    open.stage = Stage::kConfirming;
    open.probe = ++probes_;
    open.answered = {};
    open.due = now + limits_.grace;
    return {.step = Step::kConfirm, .probe = {name, open.probe}};
  }
  Verdict verdict{.step = open.stage == Stage::kProbing ? Step::kSummarise : Step::kAbort,
                  .summary = {.name = name, .kind = open.kind, .submitted = open.answered}};
  verdict.summary.waited_ms = Milliseconds(now - open.since);
  verdict.summary.submitted.Add(submitted);
  verdict.summary.missing = all;
  verdict.summary.missing.Remove(verdict.summary.submitted);
  if (verdict.summary.missing.empty() || now - open.since < limits_.warning) {
    cases_.erase(name);
    return {};
  }
  open.stage = Stage::kReported;
  open.due = std::max(now, open.since + limits_.abort - limits_.grace);
  return verdict;
}

std::string StallAbortText(const StallSummary& summary, std::size_t other_cases,
                           const RankNames& names) {
  std::string text = fmt::format(
      "{} never submitted {}, for which {} {} waited {:.3g} s", RanksText(summary.missing, names),
      OpText(summary.kind, summary.name), RanksText(summary.submitted, names),
      summary.submitted.count() == 1 ? "has" : "have", summary.waited_ms / 1000.0);
  if (other_cases > 0) {
    text += fmt::format(" ({} more {} as well)", other_cases,
                        other_cases == 1 ? "operation waits" : "operations wait");
  }
  return text +
         ". Let every rank submit the same operations; if a rank may be this late, increase "
         "HORA_STALL_ABORT_SECONDS.";
}

}  // namespace hora
