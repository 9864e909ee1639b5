#include "hora/base/logging.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace hora {
namespace {

class Logging : public testing::Test {
 protected:
  void TearDown() override { SetLogLevel(LogLevel::kWarning); }
};

TEST_F(Logging, ParsesTheNamesOfLevels) {
  EXPECT_EQ(ParseLogLevel("trace"), LogLevel::kTrace);
  EXPECT_EQ(ParseLogLevel("warning"), LogLevel::kWarning);
  EXPECT_EQ(ParseLogLevel("off"), LogLevel::kOff);
  EXPECT_EQ(ParseLogLevel("WARNING"), std::nullopt);
  EXPECT_EQ(ParseLogLevel(""), std::nullopt);
}

TEST_F(Logging, WritesLinesAtAndAboveTheThreshold) {
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, 0, "quiet");
  Log(LogLevel::kWarning, 1, "rank 2 is late");
  Log(LogLevel::kError, -1, "no rank yet");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "hora[rank 1] warning: rank 2 is late\nhora error: no rank yet\n");
}

TEST_F(Logging, FollowsTheThreshold) {
  SetLogLevel(LogLevel::kTrace);
  EXPECT_TRUE(LogEnabled(LogLevel::kTrace));
  SetLogLevel(LogLevel::kError);
  EXPECT_FALSE(LogEnabled(LogLevel::kWarning));
  EXPECT_TRUE(LogEnabled(LogLevel::kError));
}

TEST_F(Logging, OffIsNoLevelToLogAt) {
  SetLogLevel(LogLevel::kOff);
  testing::internal::CaptureStderr();
  Log(LogLevel::kError, 0, "unheard");
  Log(LogLevel::kOff, 0, "unheard");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(Logging, SurvivesAClosedStderr) {
  const int saved = dup(STDERR_FILENO);
  ASSERT_GE(saved, 0);
  close(STDERR_FILENO);
  Log(LogLevel::kError, 0, "into the void");
  dup2(saved, STDERR_FILENO);
  close(saved);
}

}  // namespace
}  // namespace hora
