#include "hora/observe/metrics.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace hora {
namespace {

TEST(Metrics, CountsWhatTheEngineTells) {
  Metrics metrics;
  metrics.OnSubmit({.kind = OpKind::kAllreduce, .name = "x"}, 100);
  metrics.OnSubmit({.kind = OpKind::kAllgather, .name = "y"}, 20);
  metrics.OnAgreed({.name = "x"});
  metrics.OnBatchBegin({.name = "x"}, 1, 100);
  metrics.OnComplete({.name = "x"}, Status::Ok());
  metrics.OnComplete({.kind = OpKind::kAllgather, .name = "y"},
                     Status(StatusCode::kMismatch, "no"));
  std::map<std::string_view, std::uint64_t> values;
  for (const auto& [name, value] : metrics.Values()) values[name] = value;
  EXPECT_EQ(values["submitted"], 2u);
  EXPECT_EQ(values["submitted_bytes"], 120u);
  EXPECT_EQ(values["agreed"], 1u);
  EXPECT_EQ(values["completed"], 1u);
  EXPECT_EQ(values["failed"], 1u);
  EXPECT_EQ(values["batches"], 1u);
  EXPECT_EQ(values["batch_bytes"], 100u);
}

}  // namespace
}  // namespace hora
