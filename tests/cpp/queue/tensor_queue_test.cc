#include "hora/queue/tensor_queue.h"

#include <gtest/gtest.h>

#include <thread>

#include "hora/base/check.h"

namespace hora {
namespace {

TensorEntry Entry(const std::string& name) {
  return {.request = {.name = name, .params = {}, .first_dim = 0},
          .input = {},
          .output = {},
          .handle = std::make_shared<Handle>(name)};
}

std::vector<std::string> NamesOf(const std::vector<Request>& requests) {
  std::vector<std::string> names;
  for (const Request& request : requests) names.push_back(request.name);
  return names;
}

TEST(TensorQueue, DrainsInOrderOfSubmissionOnce) {
  TensorQueue queue;
  ASSERT_TRUE(queue.Push(Entry("b")).ok());
  ASSERT_TRUE(queue.Push(Entry("a")).ok());
  EXPECT_TRUE(queue.has_fresh());
  std::vector<Request> fresh;
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
  EXPECT_EQ(queue.Remove("x")->name(), "x");
  EXPECT_EQ(queue.Find("x"), nullptr);
  EXPECT_EQ(queue.Remove("x"), nullptr);
  EXPECT_TRUE(queue.Push(Entry("x")).ok());
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
  std::vector<Request> fresh;
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
  Gathered gathered({1, 2}, 12);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(gathered.bytes().data()) % 64, 0u);
  EXPECT_EQ(gathered.bytes().size(), 12u);
  EXPECT_TRUE(Gathered({0, 0}, 0).bytes().empty());
}

}  // namespace
}  // namespace hora
