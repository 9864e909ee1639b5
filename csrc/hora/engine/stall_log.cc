#include "hora/engine/stall_log.h"

#include <algorithm>
#include <string>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/negotiation/wording.h"

namespace hora {
namespace {

constexpr std::size_t kMostLines = 5;

std::string Describe(int process_set, const RankNames& names, const StallSummary& stall) {
  const std::string missing = RanksText(names.Of(stall.missing));
  const std::string where = process_set == 0 ? "" : fmt::format(" in process set {}", process_set);
  return fmt::format(
      "{}{} has waited {:.1f} s: submitted by {}, missing on {}. Every rank must submit the same "
      "names; did {} skip a step, fail, or fall behind?",
      Quoted(stall.name), where, stall.waited_ms / 1000.0, RanksText(names.Of(stall.submitted)),
      missing, missing);
}

}  // namespace

void LogStalls(int process_set, int rank, const RankNames& names,
               std::span<const StallSummary> stalls) {
  for (const StallSummary& stall : stalls.first(std::min(stalls.size(), kMostLines))) {
    Log(LogLevel::kWarning, rank, Describe(process_set, names, stall));
  }
  if (stalls.size() > kMostLines) {
    Log(LogLevel::kWarning, rank, fmt::format("{} more wait as well", stalls.size() - kMostLines));
  }
}

}  // namespace hora
