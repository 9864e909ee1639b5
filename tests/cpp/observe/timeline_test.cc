#include "hora/observe/timeline.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "hora/observe/observer_list.h"

namespace hora {
namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::size_t Count(std::string_view text, std::string_view what) {
  std::size_t count = 0;
  for (auto at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++count;
  return count;
}

class TimelineFile : public testing::Test {
 protected:
  TimelineFile() : path_(testing::TempDir() + "timeline-" + std::to_string(getpid()) + ".json") {}
  ~TimelineFile() override { std::remove(path_.c_str()); }

  const std::string path_;
};

void RunOne(Observer& observer, const OpLabel& label) {
  observer.OnSubmit(label, 64);
  observer.OnAgreed(label);
  observer.OnBatchBegin(label, 1, 64);
  observer.OnBatchEnd(label, Status::Ok());
  observer.OnComplete(label, Status::Ok());
}

TEST_F(TimelineFile, HoldsTheLifeOfAnOperation) {
  Timeline timeline(3);
  ASSERT_TRUE(timeline.Start(path_, true).ok());
  RunOne(timeline, {.kind = OpKind::kAllreduce, .name = "grad.w"});
  ASSERT_TRUE(timeline.Stop().ok());
  const std::string text = Read(path_);
  for (const char* part :
       {"\"rank 3\"", "\"allreduce.grad.w\"", "\"NEGOTIATE_ALLREDUCE\"", "\"ALLREDUCE\"",
        "\"batches\"", "\"CYCLE_START\"", "start_time_since_epoch_in_micros", "\"pid\":3",
        "\"bytes\":64", "\"members\":1"}) {
    EXPECT_NE(text.find(part), text.npos) << part << " in " << text;
  }
  EXPECT_EQ(Count(text, "\"ph\":\"B\""), Count(text, "\"ph\":\"E\""));
  EXPECT_EQ(text.front(), '[');
  EXPECT_TRUE(text.ends_with("}\n]\n")) << text;
}

TEST_F(TimelineFile, RecordsNothingWhileItIsOff) {
  Timeline timeline(0);
  RunOne(timeline, {.name = "before"});
  ASSERT_TRUE(timeline.Start(path_, false).ok());
  RunOne(timeline, {.name = "during"});
  ASSERT_TRUE(timeline.Stop().ok());
  RunOne(timeline, {.name = "after"});
  const std::string text = Read(path_);
  EXPECT_EQ(text.find("before"), text.npos);
  EXPECT_NE(text.find("during"), text.npos);
  EXPECT_EQ(text.find("after"), text.npos);
  EXPECT_EQ(text.find("CYCLE_START"), text.npos);
}

TEST_F(TimelineFile, WithoutAThreadThereIsNoFile) {
  pthread_attr_t usual, impossible;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(pthread_attr_init(&impossible), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&impossible, std::size_t{1} << 46), 0);
  Timeline timeline(0);
  ASSERT_EQ(pthread_setattr_default_np(&impossible), 0);
  const Status status = timeline.Start(path_, false);
  ASSERT_EQ(pthread_setattr_default_np(&usual), 0);
  EXPECT_EQ(status.code(), StatusCode::kResource);
  EXPECT_NE(status.message().find("has no thread to write it"), std::string::npos)
      << status.message();
  EXPECT_FALSE(timeline.on());
  EXPECT_EQ(timeline.Stop().code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(timeline.Start(path_, false).ok());
  RunOne(timeline, {.name = "later"});
  EXPECT_TRUE(timeline.Stop().ok());
  EXPECT_NE(Read(path_).find("later"), std::string::npos);
}

TEST_F(TimelineFile, RefusesWhatCannotBe) {
  Timeline timeline(0);
  EXPECT_EQ(timeline.Stop().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(timeline.Start("/nowhere/at/all.json", false).code(), StatusCode::kResource);
}

TEST_F(TimelineFile, IsCompletedWhenAnotherOneIsStarted) {
  Timeline timeline(0);
  ASSERT_TRUE(timeline.Start(path_, false).ok());
  RunOne(timeline, {.name = "x"});
  EXPECT_EQ(timeline.Start("/nowhere/at/all.json", false).code(), StatusCode::kResource);
  EXPECT_TRUE(Read(path_).ends_with("}\n]\n"));
  EXPECT_FALSE(timeline.on());
  ASSERT_TRUE(timeline.Start(path_, false).ok());
  ASSERT_TRUE(timeline.Start(path_, false).ok());  // the same file once more
  RunOne(timeline, {.name = "y"});
  EXPECT_TRUE(timeline.Stop().ok());
  EXPECT_TRUE(Read(path_).starts_with("["));
  EXPECT_NE(Read(path_).find("allreduce.y"), std::string::npos);
  EXPECT_EQ(timeline.Stop().code(), StatusCode::kInvalidArgument);
}

TEST_F(TimelineFile, SaysWhenTheDiskIsFull) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  Timeline timeline(0);
  ASSERT_TRUE(timeline.Start("/dev/full", false).ok());
  RunOne(timeline, {.name = "x"});
  const Status status = timeline.Stop();
  EXPECT_EQ(status.code(), StatusCode::kResource);
  EXPECT_NE(status.message().find("/dev/full"), std::string::npos);
}

TEST_F(TimelineFile, IsCompleteAfterDestruction) {
  {
    Timeline timeline(0);
    ASSERT_TRUE(timeline.Start(path_, false).ok());
    RunOne(timeline, {.name = "x"});
  }
  EXPECT_TRUE(Read(path_).ends_with("}\n]\n"));
}

TEST_F(TimelineFile, GoesOnAndOffWhileOperationsRun) {
  Timeline timeline(0);
  ObserverList observers({&timeline});
  std::atomic<bool> done{false};
  std::vector<std::thread> ranks;
  for (int set = 0; set < 2; ++set) {
    ranks.emplace_back([&, set] {
      const std::string name = "tensor." + std::to_string(set);
      while (!done.load()) {
        RunOne(observers, {.process_set = set, .kind = OpKind::kAllgather, .name = name});
      }
    });
  }
  for (int round = 0; round < 100; ++round) {
    ASSERT_TRUE(timeline.Start(path_, round % 2 == 0).ok());
    ASSERT_TRUE(timeline.Stop().ok());
    const std::string text = Read(path_);
    ASSERT_TRUE(text.ends_with("}\n]\n")) << round;
    // A phase that was open when the timeline stopped is all that may lack its end.
    ASSERT_LE(Count(text, "\"ph\":\"E\""), Count(text, "\"ph\":\"B\"")) << round;
  }
  done.store(true);
  for (std::thread& rank : ranks) rank.join();
}

TEST(TraceQueue, CountsWhatDoesNotFit) {
  ManualClock clock;
  TraceQueue queue;
  queue.Open();
  constexpr std::uint64_t kTooMany = 5;
  for (std::size_t i = 0; i < TraceQueue::kMaxEvents + kTooMany; ++i) {
    queue.Push({.point = TracePoint::kSubmit}, "x", "", clock);
  }
  TraceBatch batch;
  EXPECT_TRUE(queue.Take(batch, Duration(0)));
  EXPECT_EQ(batch.events.size(), TraceQueue::kMaxEvents);
  EXPECT_EQ(batch.dropped, kTooMany);
  batch.Clear();
  queue.Push({.point = TracePoint::kSubmit}, std::string(TraceQueue::kMaxText + 1, 'n'), "", clock);
  EXPECT_TRUE(queue.Take(batch, Duration(0)));
  EXPECT_EQ(batch.dropped, 1u);
}

TEST(TraceQueue, HandsOutTheRestWhenClosed) {
  ManualClock clock;
  TraceQueue queue;
  queue.Push({.point = TracePoint::kSubmit}, "before it was open", "", clock);
  queue.Open();
  queue.Push({.point = TracePoint::kSubmit}, "x", "", clock);
  queue.Close();
  queue.Push({.point = TracePoint::kSubmit}, "after it was closed", "", clock);
  TraceBatch batch;
  EXPECT_TRUE(queue.Take(batch, std::chrono::hours(1)));
  EXPECT_EQ(batch.text, "x");
  batch.Clear();
  EXPECT_FALSE(queue.Take(batch, std::chrono::hours(1)));
}

}  // namespace
}  // namespace hora
