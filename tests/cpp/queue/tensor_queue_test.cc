#include "hora/queue/tensor_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <thread>

#include "hora/base/check.h"

namespace hora {
namespace {

TensorEntry Entry(const std::string& name) {
  TensorEntry entry;
  entry.request.name = name;
  entry.handle = std::make_shared<Handle>(name);
  return entry;
}

TensorEntry Join(const std::string& name) {
  TensorEntry entry = Entry(name);
  entry.request.params.kind = OpKind::kJoin;
  return entry;
}

std::vector<std::string> NamesOf(const std::vector<TensorEntry*>& entries) {
  std::vector<std::string> names;
  for (const TensorEntry* entry : entries) names.push_back(entry->request.name);
  return names;
}

TEST(TensorQueue, DrainsInOrderOfSubmissionOnce) {
  TensorQueue queue;
  ASSERT_TRUE(queue.Push(Entry("b")).ok());
  ASSERT_TRUE(queue.Push(Entry("a")).ok());
  EXPECT_TRUE(queue.has_fresh());
  std::vector<TensorEntry*> fresh;
  queue.Drain(fresh);
  EXPECT_EQ(NamesOf(fresh), (std::vector<std::string>{"b", "a"}));
  EXPECT_FALSE(queue.has_fresh());
  EXPECT_EQ(queue.pending(), 2u);
  ASSERT_TRUE(queue.Push(Entry("c")).ok());
  queue.Drain(fresh);
  EXPECT_EQ(NamesOf(fresh), (std::vector<std::string>{"b", "a", "c"}));
}

TEST(TensorQueue, ANameIsFreeAgainOnceRemoved) {
  TensorQueue queue;
  ASSERT_TRUE(queue.Push(Entry("x")).ok());
  const Status refused = queue.Push(Entry("x"));
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("'x'"), std::string::npos);
  ASSERT_NE(queue.Find("x"), nullptr);
  EXPECT_EQ(queue.Remove(queue.Find("x"))->name(), "x");
  EXPECT_EQ(queue.Find("x"), nullptr);
  EXPECT_TRUE(queue.Push(Entry("x")).ok());
}

TEST(TensorQueue, RemovesManyInOrderAndTheirPlacesServeTheNext) {
  TensorQueue queue;
  std::vector<TensorEntry*> first;
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(queue.Push(Entry("t" + std::to_string(i))).ok());
  queue.Drain(first);
  std::vector<std::shared_ptr<Handle>> handles;
  queue.Remove(std::span(first).subspan(100, 100), handles);
  ASSERT_EQ(handles.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(handles[i]->name(), "t" + std::to_string(100 + i));
  EXPECT_EQ(queue.pending(), 200u);
  std::vector<TensorEntry*> second;
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(queue.Push(Entry("u" + std::to_string(i))).ok());
  queue.Drain(second);
  EXPECT_TRUE(std::is_permutation(second.begin(), second.end(), first.begin() + 100));
  EXPECT_EQ(queue.Find("t99"), first[99]) << "entries never move";
  EXPECT_EQ(queue.Find("t100"), nullptr);
}

TEST(TensorQueue, PendingTellsWhatIsNotDoneAndSinceWhen) {
  TensorQueue queue;
  const TimePoint before = SteadyClock::Instance().Now() - std::chrono::milliseconds(20);
  ASSERT_TRUE(queue.Push(Entry("b")).ok());
  ASSERT_TRUE(queue.Push(Join("a")).ok());
  const std::vector<PendingOperation> pending = queue.Pending();
  ASSERT_EQ(pending.size(), 2u);
  EXPECT_EQ(pending[0].name, "b");
  EXPECT_EQ(pending[0].kind, OpKind::kAllreduce);
  EXPECT_EQ(pending[1].name, "a");
  EXPECT_EQ(pending[1].kind, OpKind::kJoin);
  EXPECT_GE(pending[0].since, before);
  EXPECT_LE(pending[0].since, pending[1].since);
  queue.Remove(queue.Find("b"));
  EXPECT_EQ(queue.Pending().size(), 1u);
}

TEST(TensorQueue, WhoHasJoinedSubmitsNothingUntilTheJoinIsDone) {
  TensorQueue queue;
  ASSERT_TRUE(queue.Push(Entry("before")).ok());
  ASSERT_TRUE(queue.Push(Join("join")).ok());
  for (const Status& refused : {queue.Push(Entry("after")), queue.Push(Join("again"))}) {
    EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(refused.message().find("has joined"), std::string::npos) << refused.message();
  }
  queue.Remove(queue.Find("before"));
  EXPECT_FALSE(queue.Push(Entry("after")).ok());
  queue.Remove(queue.Find("join"));
  EXPECT_TRUE(queue.Push(Entry("after")).ok());
}

TEST(TensorQueue, FreshBytesCountEveryTensorOfAGroup) {
  TensorQueue queue;
  TensorEntry entry = Entry("group");
  entry.input = {.data = nullptr, .dtype = DType::kFloat32, .device = {}, .shape = Shape{3}};
  TensorPair second;
  second.input = {.data = nullptr, .dtype = DType::kFloat64, .device = {}, .shape = Shape{2}};
  entry.rest.push_back(second);
  ASSERT_TRUE(queue.Push(std::move(entry)).ok());
  EXPECT_EQ(queue.fresh_bytes(), 4u * 3 + 8u * 2);
}

TEST(TensorQueue, CloseGivesBackWhatIsPendingAndRefusesTheRest) {
  TensorQueue queue;
  ASSERT_TRUE(queue.Push(Entry("x")).ok());
  const Status why(StatusCode::kShutDown, "gone");
  EXPECT_EQ(queue.Close(why).size(), 1u);
  EXPECT_EQ(queue.Push(Entry("y")), why);
  EXPECT_TRUE(queue.Close(Status(StatusCode::kInternal, "later")).empty());
  EXPECT_EQ(queue.Push(Entry("y")), why) << "the first reason stays";
}

TEST(TensorQueue, EveryPushOfManyThreadsIsDrainedExactlyOnce) {
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  TensorQueue queue;
  std::vector<TensorEntry*> fresh;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&queue, t] {
        for (int i = 0; i < kEach; ++i) {
          ASSERT_TRUE(queue.Push(Entry(std::to_string(t) + "." + std::to_string(i))).ok());
        }
      });
    }
    while (fresh.size() < kThreads * kEach) queue.Drain(fresh);
  }
  EXPECT_EQ(queue.pending(), static_cast<std::size_t>(kThreads * kEach));
  EXPECT_FALSE(queue.has_fresh());
}

TEST(Handle, CompletesOnce) {
  Handle handle("x");
  EXPECT_FALSE(handle.done());
  handle.Complete(Status(StatusCode::kTimeout, "late"));
  EXPECT_TRUE(handle.done());
  EXPECT_EQ(handle.status().message(), "late");
  EXPECT_THROW(handle.Complete(Status::Ok()), InvariantError);
}

TEST(Gathered, IsAlignedAndMayBeEmpty) {
  const auto memory = std::make_shared<ResultMemory>(1u << 20);
  Gathered gathered({1, 2}, 12, memory);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(gathered.bytes().data()) % 64, 0u);
  EXPECT_EQ(gathered.bytes().size(), 12u);
  EXPECT_TRUE(Gathered({0, 0}, 0, memory).bytes().empty());
}

}  // namespace
}  // namespace hora
