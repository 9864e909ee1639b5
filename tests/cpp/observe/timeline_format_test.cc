#include "hora/observe/timeline_format.h"

#include <gtest/gtest.h>

#include <string>

namespace hora {
namespace {

constexpr TimePoint kStart{};

// The text of a whole file of one rank, event by event.
class Text {
 public:
  explicit Text(bool mark_cycles = false)
      : format_(2, mark_cycles, {.moment = kStart, .since_epoch_ns = 1'700'000'000'000'000'500}) {}

  Text& Add(TracePoint point, OpKind op, std::string_view name, std::string_view error = "") {
    TraceBatch batch;
    batch.events.push_back({.point = point,
                            .op = op,
                            .process_set = set,
                            .time = kStart + std::chrono::microseconds(++ticks_),
                            .bytes = 8,
                            .members = 2,
                            .name_size = static_cast<std::uint32_t>(name.size()),
                            .error_size = static_cast<std::uint32_t>(error.size())});
    batch.text.append(name).append(error);
    format_.Append(batch, out_);
    return *this;
  }

  void Drop(std::uint64_t count) {
    TraceBatch batch;
    batch.dropped = count;
    format_.Append(batch, out_);
  }

  const std::string& out() const { return out_; }

  std::int32_t set = 0;

 private:
  TimelineFormat format_;
  std::string out_;
  int ticks_ = 0;
};

TEST(TimelineFormat, WritesPhasesOnTheTensorsTrack) {
  Text text;
  text.Add(TracePoint::kSubmit, OpKind::kAllreduce, "w")
      .Add(TracePoint::kAgreed, OpKind::kAllreduce, "w")
      .Add(TracePoint::kComplete, OpKind::kAllreduce, "w");
  EXPECT_EQ(text.out(), R"(,
{"name":"thread_name","ph":"M","pid":2,"tid":1,"args":{"name":"allreduce.w"}},
{"name":"NEGOTIATE_ALLREDUCE","ph":"B","pid":2,"tid":1,"ts":1700000000000001.500,)"
                        R"("args":{"bytes":8,"process_set":0}},
{"ph":"E","pid":2,"tid":1,"ts":1700000000000002.500,"args":{}},
{"name":"ALLREDUCE","ph":"B","pid":2,"tid":1,"ts":1700000000000002.500,)"
                        R"("args":{"bytes":8,"process_set":0}},
{"ph":"E","pid":2,"tid":1,"ts":1700000000000003.500,"args":{}})");
}

TEST(TimelineFormat, SaysWithWhichErrorAnOperationEnded) {
  Text text;
  text.Add(TracePoint::kSubmit, OpKind::kBroadcast, "w")
      .Add(TracePoint::kComplete, OpKind::kBroadcast, "w", "rank 1 has \"[3]\"");
  EXPECT_NE(text.out().find(R"("args":{"error":"rank 1 has \"[3]\""}})"), std::string::npos);
}

TEST(TimelineFormat, EndsNoPhaseThatItHasNotSeenBegin) {
  Text text;
  text.Add(TracePoint::kComplete, OpKind::kAllreduce, "w")
      .Add(TracePoint::kBatchEnd, OpKind::kAllreduce, "w");
  EXPECT_EQ(text.out().find("\"ph\":\"E\""), std::string::npos);
}

TEST(TimelineFormat, EndsAPhaseBeforeTheNext) {
  Text text;  // the end of the first was dropped
  text.Add(TracePoint::kSubmit, OpKind::kAllreduce, "w")
      .Add(TracePoint::kSubmit, OpKind::kAllreduce, "w");
  const std::size_t first = text.out().find("\"ph\":\"B\"");
  const std::size_t end = text.out().find("\"ph\":\"E\"");
  EXPECT_LT(first, end);
  EXPECT_LT(end, text.out().find("\"ph\":\"B\"", first + 1));
}

TEST(TimelineFormat, KeepsKindsAndProcessSetsApart) {
  Text text;
  text.Add(TracePoint::kSubmit, OpKind::kAllreduce, "w")
      .Add(TracePoint::kSubmit, OpKind::kAllgather, "w");
  text.set = 4;
  text.Add(TracePoint::kSubmit, OpKind::kAllreduce, "w")
      .Add(TracePoint::kBatchBegin, OpKind::kAllreduce, "w");
  for (const char* label : {"\"allreduce.w\"", "\"allgather.w\"", "\"process set 4: allreduce.w\"",
                            "\"process set 4: batches\""}) {
    EXPECT_NE(text.out().find(label), std::string::npos) << label;
  }
  EXPECT_NE(text.out().find("\"tid\":4"), std::string::npos);
}

TEST(TimelineFormat, DoesNotRepeatTheKindOfAnOperationWithoutAName) {
  Text text;
  text.Add(TracePoint::kSubmit, OpKind::kAllreduce, "allreduce.noname.3");
  EXPECT_NE(text.out().find("{\"name\":\"allreduce.noname.3\"}"), std::string::npos);
}

TEST(TimelineFormat, MarksEveryAgreementOnce) {
  Text text(/*mark_cycles=*/true);
  for (int agreement = 0; agreement < 2; ++agreement) {
    text.Add(TracePoint::kAgreed, OpKind::kAllreduce, "a")
        .Add(TracePoint::kAgreed, OpKind::kAllreduce, "b")
        .Add(TracePoint::kBatchBegin, OpKind::kAllreduce, "a")
        .Add(TracePoint::kBatchEnd, OpKind::kAllreduce, "a");
  }
  const std::size_t first = text.out().find("CYCLE_START");
  const std::size_t second = text.out().find("CYCLE_START", first + 1);
  EXPECT_NE(second, std::string::npos);
  EXPECT_EQ(text.out().find("CYCLE_START", second + 1), std::string::npos);
}

TEST(TimelineFormat, TellsWhatWasDropped) {
  Text text;
  text.Drop(7);
  EXPECT_NE(text.out().find("\"7 events dropped\""), std::string::npos);
}

TEST(JsonEscaped, LeavesNothingThatBreaksAString) {
  EXPECT_EQ(JsonEscaped("a\"b\\c\n\x01"), "a\\\"b\\\\c\\u000a\\u0001");
  EXPECT_EQ(JsonEscaped("Überschrift €, 𝄞"), "Überschrift €, 𝄞");
}

TEST(JsonEscaped, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(JsonEscaped("\xff"), "\uFFFD");
  EXPECT_EQ(JsonEscaped("a\xc3"), "a\uFFFD");                              // cut short
  EXPECT_EQ(JsonEscaped("\xc0\xaf"), "\uFFFD\uFFFD");                      // longer than needed
  EXPECT_EQ(JsonEscaped("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");            // half a surrogate pair
  EXPECT_EQ(JsonEscaped("\xf4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");  // beyond Unicode
}

}  // namespace
}  // namespace hora
