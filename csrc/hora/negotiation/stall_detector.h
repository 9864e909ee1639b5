// The root's view of operations that some ranks wait for too long.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/rank_set.h"
#include "hora/tensor/rank_names.h"
#include "hora/wire/control_message.h"

namespace hora {

struct StallLimits {
  StallLimits(Duration warning, Duration abort);

  Duration warning;
  Duration abort;
  Duration grace;  // for answers to a probe: min(warning / 4, 250 ms)
};

// One case per stalled name: probing → (summary) → reported → confirming → abort. A case ends when
// its name is agreed or nobody is missing. Counts answers to the current probe only: what crossed
// an agreement of the same name speaks of a round that is over. Owned by the root's negotiator;
// pure: the caller probes, sends and passes the time.
class StallDetector {
 public:
  enum class Step : std::uint8_t { kNothing, kSummarise, kConfirm, kAbort };

  explicit StallDetector(StallLimits limits) : limits_(limits) {}

  // Not empty: this opens a case, so probe all ranks for the name.
  std::optional<StallProbe> Hear(const StallReport& report, TimePoint now);

  void Agreed(const std::string& name) {
    if (!cases_.empty()) cases_.erase(name);
  }
  void Clear() { cases_.clear(); }
  std::size_t size() const { return cases_.size(); }

  TimePoint NextDeadline() const;
  std::vector<std::string> Due(TimePoint now) const;

  // What to do about a due case, given who is known to have submitted it. kNothing: nobody is
  // missing, or nobody has waited long, and the case is closed.
  struct Verdict {
    Step step = Step::kNothing;
    StallProbe probe;      // kConfirm: to be sent
    StallSummary summary;  // kSummarise, kAbort
  };
  Verdict Advance(const std::string& name, const RankSet& submitted, const RankSet& all,
                  TimePoint now);

 private:
  enum class Stage : std::uint8_t { kProbing, kReported, kConfirming };
  struct Case {
    OpKind kind = OpKind::kAllreduce;
    Stage stage = Stage::kProbing;
    std::uint32_t probe = 0;
    RankSet answered;
    TimePoint since;  // the oldest submission that is known
    TimePoint due;
  };

  StallLimits limits_;
  std::uint32_t probes_ = 0;
  std::map<std::string, Case> cases_;  // ordered: the same events give the same messages
};

// "rank 2 never submitted allreduce 'x', for which ranks 0-1 have waited 300 s. …"
std::string StallAbortText(const StallSummary& summary, std::size_t other_cases,
                           const RankNames& names);

}  // namespace hora
