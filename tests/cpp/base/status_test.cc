#include "hora/base/status.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "hora/base/check.h"
#include "hora/base/clock.h"
#include "hora/base/format.h"
#include "hora/base/result.h"

namespace hora {
namespace {

TEST(Status, IsOkByDefault) {
  EXPECT_TRUE(Status().ok());
  EXPECT_EQ(Status(), Status::Ok());
  EXPECT_EQ(Status().ToString(), "OK");
}

TEST(Status, CarriesCodeAndMessage) {
  const Status status = Error(StatusCode::kMismatch, "allreduce '{}': {} ranks disagree", "w", 2);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kMismatch);
  EXPECT_EQ(status.message(), "allreduce 'w': 2 ranks disagree");
  EXPECT_EQ(status.ToString(), "MISMATCH: allreduce 'w': 2 ranks disagree");
  EXPECT_EQ(status, Status(StatusCode::kMismatch, "allreduce 'w': 2 ranks disagree"));
  EXPECT_NE(status, Status(StatusCode::kStalled, status.message()));
}

TEST(Status, NumbersAreThoseOfTheWire) {
  EXPECT_EQ(static_cast<int>(StatusCode::kOk), 0);
  EXPECT_EQ(static_cast<int>(StatusCode::kMismatch), 2);
  EXPECT_EQ(static_cast<int>(StatusCode::kInternal), 9);
}

TEST(Status, EveryCodeHasItsName) {
  std::set<std::string_view> names;
  for (int code = 0; code <= 9; ++code) names.insert(ToString(static_cast<StatusCode>(code)));
  EXPECT_EQ(names.size(), 10u);
  EXPECT_EQ(names.count("UNKNOWN"), 0u);
  EXPECT_EQ(ToString(static_cast<StatusCode>(200)), "UNKNOWN");
}

TEST(Result, HoldsAValueOrTheReasonWhyNot) {
  const Result<int> value = 3;
  ASSERT_TRUE(value.has_value());
  EXPECT_EQ(*value, 3);
  const Result<int> failure = Fail(Error(StatusCode::kResource, "no memory"));
  ASSERT_FALSE(failure.has_value());
  EXPECT_EQ(failure.error().code(), StatusCode::kResource);
}

TEST(Check, ThrowsAndNamesThePlace) {
  Check(true, "holds");
  try {
    Check(false, "a handle completes once");
    FAIL() << "a broken invariant passed";
  } catch (const InvariantError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("a handle completes once"), std::string::npos) << what;
    EXPECT_NE(what.find("status_test.cc:"), std::string::npos) << what;
  }
}

TEST(Clock, ManualTimeMovesOnlyWhenTold) {
  ManualClock clock;
  const TimePoint start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(std::chrono::seconds(3));
  EXPECT_EQ(clock.Now() - start, std::chrono::seconds(3));
}

TEST(Clock, SteadyTimeNeverGoesBack) {
  const Clock& clock = SteadyClock::Instance();
  const TimePoint start = clock.Now();
  EXPECT_GE(clock.Now(), start);
}

}  // namespace
}  // namespace hora
