// One message of every kind, with every field set to something that is not its default.
#pragma once

#include <map>
#include <string>

#include "hora/wire/control_message.h"

namespace hora {

inline OpParams SampleParams() {
  return {.kind = OpKind::kBroadcast,
          .dtype = DType::kBFloat16,
          .reduce_op = ReduceOp::kMax,
          .root_rank = 3,
          .priority = -2,
          .prescale = 0.5,
          .postscale = 2.0,
          .device = {DeviceType::kCuda, 1},
          .shape = {2, 3}};
}

inline OpParams SampleGatherParams() {
  return {.kind = OpKind::kAllgather, .dtype = DType::kInt64, .shape = {0, 7}};
}

inline OpParams SampleGroupParams() {
  return {.kind = OpKind::kReducescatter,
          .reduce_op = ReduceOp::kAverage,
          .shape = {5},
          .rest = {{DType::kBFloat16, {4, 2}}, {DType::kFloat32, {}}}};
}

inline RankSet Ranks(std::initializer_list<int> ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return set;
}

inline std::map<std::string, ControlMessage> SampleMessages() {
  return {
      {"one_bit", Readiness{.agreements_seen = 9, .cached = Ranks({0})}},
      {"readiness",
       Readiness{
           .agreements_seen = 7,
           .cached = Ranks({0, 5, 160}),
           .requests = {{.name = "bias",
                         .variants = {{.params = SampleParams(), .ranks = Ranks({1, 70})},
                                      {.params = SampleGatherParams(),
                                       .ranks = Ranks({2, 3}),
                                       .first_dims = {{2, 10}, {3, 0}}}}},
                        {.name = "group",
                         .variants = {{.params = SampleGroupParams(), .ranks = Ranks({4})}}}}}},
      {"agreement",
       Agreement{
           .sequence = 12,
           .cached = Ranks({63}),
           .responses = {{.name = "x", .params = SampleGatherParams(), .first_dims = {4, 0, 9}},
                         {.name = "y",
                          .params = SampleParams(),
                          .error = Status(StatusCode::kMismatch, "ranks disagree")},
                         {.name = "g", .params = SampleGroupParams(), .absent = Ranks({1, 65})}},
           .tuning = Tuning{.fusion_threshold_bytes = 1u << 26,
                            .chunk_bytes = 1u << 18,
                            .small_allreduce_bytes = 16384,
                            .urgent_bytes = 32768}}},
      {"stall_report", StallReport{.name = "w",
                                   .kind = OpKind::kBarrier,
                                   .ranks = Ranks({1, 2}),
                                   .waited_ms = 10001,
                                   .probe = 4}},
      {"stall_probe", StallProbe{.name = "w", .probe = 4}},
      {"stall_summary", StallSummary{.name = "w",
                                     .kind = OpKind::kBroadcast,
                                     .submitted = Ranks({0, 1}),
                                     .missing = Ranks({2}),
                                     .waited_ms = 10250}},
      {"leave", Leave{.rank = 5}},
      {"joined", Joined{.rank = 6}},
      {"abort", Abort{.origin = 2, .status = Status(StatusCode::kResource, "no memory")}},
  };
}

}  // namespace hora
