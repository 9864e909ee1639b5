// Everything that travels along the edges of the control tree.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "hora/base/rank_set.h"
#include "hora/base/status.h"
#include "hora/tensor/op_kind.h"
#include "hora/wire/request.h"
#include "hora/wire/response.h"
#include "hora/wire/tunables.h"

namespace hora {

// Slots of the response cache, as a trimmed bit set.
using SlotSet = RankSet;  // the same thing: a bit per small non-negative number

// Up: my whole subtree has submitted these.
struct Readiness {
  std::uint64_t agreements_seen = 0;     // how many agreements the sender had applied
  SlotSet cached;                        // repeats of cached responses: one bit each
  std::vector<SubtreeRequest> requests;  // the rest

  friend bool operator==(const Readiness&, const Readiness&) = default;
};

// Down: the next things to do, in this order: `cached` ascending, then `responses`.
struct Agreement {
  std::uint64_t sequence = 0;  // 1, 2, 3, …
  SlotSet cached;
  std::vector<Response> responses;
  std::optional<Tuning> tuning;  // in force from the operations of this agreement on

  friend bool operator==(const Agreement&, const Agreement&) = default;
};

// Up, at once: `ranks` have submitted `name` and wait for it; too long for their taste, or asked by
// a probe.
struct StallReport {
  std::string name;
  OpKind kind = OpKind::kAllreduce;
  RankSet ranks;
  std::uint32_t waited_ms = 0;  // the longest of them
  std::uint32_t probe = 0;      // that this answers; 0: none

  friend bool operator==(const StallReport&, const StallReport&) = default;
};

// Down: whoever has submitted `name` says so by a StallReport.
struct StallProbe {
  std::string name;
  std::uint32_t probe = 0;  // 1, 2, 3, …

  friend bool operator==(const StallProbe&, const StallProbe&) = default;
};

// Down: the verdict, logged by every rank.
struct StallSummary {
  std::string name;
  OpKind kind = OpKind::kAllreduce;
  RankSet submitted;
  RankSet missing;
  std::uint32_t waited_ms = 0;

  friend bool operator==(const StallSummary&, const StallSummary&) = default;
};

// Up, at once: `rank` has no more data; what is requested from now on may leave it out. Until all
// have joined, allreduces go on without it; the response of the join itself ends that.
struct Joined {
  std::int32_t rank = 0;

  friend bool operator==(const Joined&, const Joined&) = default;
};

// Up to the root, which puts it into the stream of decisions that comes down: `rank` has shut down,
// nothing that follows can be agreed any more.
struct Leave {
  std::int32_t rank = 0;

  friend bool operator==(const Leave&, const Leave&) = default;
};

// Both ways: the engine of `origin` failed closed; every rank does the same with this status.
struct Abort {
  std::int32_t origin = 0;
  Status status;

  friend bool operator==(const Abort&, const Abort&) = default;
};

using ControlMessage =
    std::variant<Readiness, Agreement, StallReport, StallProbe, StallSummary, Leave, Abort, Joined>;

}  // namespace hora
