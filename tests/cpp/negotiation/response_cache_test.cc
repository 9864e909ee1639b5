#include "hora/negotiation/response_cache.h"

#include <gtest/gtest.h>

#include "hora/negotiation/slot_history.h"

namespace hora {
namespace {

SharedResponse Of(std::string name, std::int64_t extent = 1) {
  return std::make_shared<const Response>(
      Response{.name = std::move(name), .params = {.shape = {extent}}});
}

TEST(ResponseCache, FillsTheLowestFreeSlot) {
  ResponseCache cache(4);
  EXPECT_EQ(cache.Insert(Of("a")).slot, 0);
  EXPECT_EQ(cache.Insert(Of("b")).slot, 1);
  EXPECT_EQ(cache.Insert(Of("c")).slot, 2);
  cache.Erase(1);
  cache.Erase(0);
  EXPECT_FALSE(cache.Contains(0));
  EXPECT_EQ(cache.Find("a"), -1);
  EXPECT_EQ(cache.Insert(Of("d")).slot, 0);
  EXPECT_EQ(cache.Insert(Of("e")).slot, 1);
  EXPECT_EQ(cache.Insert(Of("f")).slot, 3);
  EXPECT_EQ(cache.size(), 4u);
}

TEST(ResponseCache, ReplacesTheSameNameInPlace) {
  ResponseCache cache(2);
  cache.Insert(Of("a"));
  cache.Insert(Of("b"));
  const auto [slot, evicted] = cache.Insert(Of("a", 7));
  EXPECT_EQ(slot, 0);
  EXPECT_EQ(evicted, nullptr);
  EXPECT_EQ(cache.at(0), *Of("a", 7));
  EXPECT_EQ(*cache.Insert(Of("c")).evicted, *Of("b"));  // "a" was used later
}

TEST(ResponseCache, EvictsTheLeastRecentlyUsed) {
  ResponseCache cache(3);
  for (const char* name : {"a", "b", "c"}) cache.Insert(Of(name));
  cache.Touch(0);
  auto [slot, evicted] = cache.Insert(Of("d"));
  EXPECT_EQ(slot, 1);
  EXPECT_EQ(*evicted, *Of("b"));
  EXPECT_EQ(cache.Find("b"), -1);
  EXPECT_EQ(cache.Find("d"), 1);
  EXPECT_EQ(*cache.Insert(Of("e")).evicted, *Of("c"));
  EXPECT_EQ(*cache.Insert(Of("f")).evicted, *Of("a"));
}

TEST(ResponseCache, ReplacingKeepsWhatOthersHold) {
  ResponseCache cache(2);
  cache.Insert(Of("a"));
  const SharedResponse held = cache.shared(0);
  cache.Insert(Of("a", 7));
  EXPECT_EQ(*held, *Of("a"));
  EXPECT_EQ(cache.Find("a"), 0);
}

TEST(ResponseCache, FindsTheNextOfAnyOrder) {
  ResponseCache cache(3);
  for (const char* name : {"a", "b", "c"}) cache.Insert(Of(name));
  for (const std::string order : {"abc", "abc", "cab", "ba", "cxab", "xc", "abc"}) {
    for (const char name : order) {
      EXPECT_EQ(cache.FindNext(std::string(1, name)), cache.Find(std::string(1, name))) << order;
    }
  }
  cache.Erase(1);
  for (const char* name : {"a", "b", "c", "a", "b"}) {
    EXPECT_EQ(cache.FindNext(name), cache.Find(name)) << name;
  }
  cache.Insert(Of("d"));
  for (const char* name : {"a", "b", "d", "a", "d", "b"}) {
    EXPECT_EQ(cache.FindNext(name), cache.Find(name)) << name;
  }
}

TEST(ResponseCache, CapacityZeroRemembersNothing) {
  ResponseCache cache(0);
  EXPECT_EQ(cache.Insert(Of("a")).slot, -1);
  EXPECT_EQ(cache.Find("a"), -1);
  EXPECT_EQ(cache.size(), 0u);
}

TEST(ResponseCache, AnswersOnlyTheSameQuestion) {
  ResponseCache cache(2);
  Response gather = *Of("g");
  gather.params.kind = OpKind::kAllgather;
  gather.first_dims = {4, 5};
  cache.Insert(std::make_shared<const Response>(gather));
  Request request{.name = "g", .params = gather.params, .first_dims = {5}};
  EXPECT_TRUE(cache.Answers(0, request, 1));
  EXPECT_FALSE(cache.Answers(0, request, 0));
  request.first_dims.clear();
  EXPECT_FALSE(cache.Answers(0, request, 1)) << "not checked yet, and malformed";
  request.first_dims = {5};
  request.params.dtype = DType::kInt8;
  EXPECT_FALSE(cache.Answers(0, request, 1));
}

TEST(ResponseCache, KnowsWhichSlotsAreInUse) {
  ResponseCache cache(200);
  for (int i = 0; i < 130; ++i) cache.Insert(Of(std::to_string(i)));
  SlotSet slots = SlotSet::AllOf(130);
  EXPECT_TRUE(cache.ContainsAll(slots));
  slots.Add(130);
  EXPECT_FALSE(cache.ContainsAll(slots));
  cache.Erase(64);
  EXPECT_FALSE(cache.ContainsAll(SlotSet::Of(64)));
  EXPECT_FALSE(cache.Contains(-1));
}

TEST(SlotHistory, ABitMeansWhatTheSlotHeldWhenItWasSent) {
  using Meaning = SlotHistory::Meaning;
  SlotHistory history;
  EXPECT_EQ(history.Find(0, 0).meaning, Meaning::kNone);
  history.Changed(0, 1);  // "a" moves in
  history.Changed(0, 5);  // "b" takes its place
  history.Evicted(0, 5, Of("a"));
  history.Changed(0, 8);
  history.Evicted(0, 8, Of("b"));
  EXPECT_EQ(history.Find(0, 8).meaning, Meaning::kCurrent);
  EXPECT_EQ(history.Find(0, 7).evicted->name, "b");
  EXPECT_EQ(history.Find(0, 5).evicted->name, "b");
  EXPECT_EQ(history.Find(0, 4).evicted->name, "a");
  EXPECT_EQ(history.last_change(), 8u);
  history.Forget(5);
  EXPECT_EQ(history.size(), 1u);
  EXPECT_EQ(history.Find(0, 7).evicted->name, "b");
  history.Forget(8);
  EXPECT_EQ(history.Find(0, 7).meaning, Meaning::kNone);
}

}  // namespace
}  // namespace hora
