#include "hora/control/heartbeat_word.h"

#include <gtest/gtest.h>

#include <string>

namespace hora {
namespace {

using Kind = HeartbeatWord::Kind;

TEST(HeartbeatWord, AnAbortKeepsItsCauseAndOrigin) {
  const Status cause(StatusCode::kStalled, "rank 3 waits for 'w'");
  const HeartbeatWord word = HeartbeatWord::Abort(3, cause);
  EXPECT_TRUE(word.Check().ok());
  EXPECT_EQ(word.cause(), cause);
  EXPECT_EQ(word.origin, 3);
}

TEST(HeartbeatWord, CutsALongText) {
  const Status cause(StatusCode::kInternal, std::string(5000, 'x'));
  const HeartbeatWord word = HeartbeatWord::Abort(0, cause);
  EXPECT_TRUE(word.Check().ok());
  EXPECT_EQ(word.cause().message(), std::string(HeartbeatWord::kTextBytes, 'x'));
}

TEST(HeartbeatWord, BeatsAndGoodbyesNeedNothingElse) {
  EXPECT_TRUE(HeartbeatWord{}.Check().ok());
  EXPECT_TRUE(HeartbeatWord{.kind = Kind::kGoodbye}.Check().ok());
}

TEST(HeartbeatWord, RefusesWhatNoNeighbourSays) {
  const HeartbeatWord good = HeartbeatWord::Abort(0, Status(StatusCode::kInternal, "why"));
  HeartbeatWord wrong = good;
  wrong.kind = static_cast<Kind>(4);
  EXPECT_EQ(wrong.Check().message(), "sent 4 where only a beat, an abort or a goodbye is allowed");
  wrong = good;
  wrong.code = StatusCode::kOk;
  EXPECT_EQ(wrong.Check().code(), StatusCode::kInternal);
  wrong.code = static_cast<StatusCode>(10);
  EXPECT_EQ(wrong.Check().message(), "sent an abort with the code 10 and 3 bytes of text");
  wrong = good;
  wrong.text_bytes = 513;
  EXPECT_FALSE(wrong.Check().ok());
}

}  // namespace
}  // namespace hora
