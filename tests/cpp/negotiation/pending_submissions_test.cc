#include "hora/negotiation/pending_submissions.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

TimePoint At(int second) { return TimePoint(std::chrono::seconds(second)); }

TEST(PendingSubmissions, FindsBySlotAndByName) {
  PendingSubmissions pending;
  pending.Add("a", OpKind::kAllreduce, -1, At(1));
  pending.Add("b", OpKind::kAllgather, 3, At(2));
  EXPECT_EQ(pending.size(), 2u);
  EXPECT_EQ(pending.Find("b", 3)->kind, OpKind::kAllgather);
  EXPECT_EQ(pending.Find("a", -1)->since, At(1));
  EXPECT_EQ(pending.Find("c", 0), nullptr);
  pending.SlotEvicted(3);
  EXPECT_EQ(pending.Find("b", -1)->name, "b");
  pending.TakeSlot(3);  // holds another name now
  EXPECT_EQ(pending.size(), 2u);
  pending.Take("b", -1);
  EXPECT_EQ(pending.size(), 1u);
}

TEST(PendingSubmissions, GivesTheEntryBackThatCameWithTheSubmission) {
  PendingSubmissions pending;
  int somewhere[2];
  auto* const first = reinterpret_cast<TensorEntry*>(&somewhere[0]);
  auto* const second = reinterpret_cast<TensorEntry*>(&somewhere[1]);
  pending.Add("a", OpKind::kAllreduce, -1, At(1), first);
  pending.Add("b", OpKind::kAllreduce, 3, At(2), second);
  EXPECT_EQ(pending.Find("a", -1)->entry, first);
  EXPECT_EQ(pending.TakeSlot(3), second);
  EXPECT_EQ(pending.TakeSlot(3), nullptr);
  EXPECT_EQ(pending.Take("a", -1), first);
  pending.Add("a", OpKind::kAllreduce, -1, At(3));
  EXPECT_EQ(pending.Take("a", -1), nullptr) << "its own, not that of who was there before";
}

TEST(PendingSubmissions, AnEmptyNameIsANameLikeOthers) {
  PendingSubmissions pending;
  pending.Add("", OpKind::kAllreduce, -1, At(1));
  pending.TakeSlot(0);
  EXPECT_EQ(pending.size(), 1u);
  pending.Take("", -1);
  EXPECT_EQ(pending.oldest(), nullptr);
}

TEST(PendingSubmissions, KeepsTheOrderOfSubmissionAndTheMark) {
  PendingSubmissions pending;
  for (int i = 0; i < 4; ++i) pending.Add(std::to_string(i), OpKind::kAllreduce, i, At(i));
  pending.MarkReported();
  EXPECT_EQ(pending.oldest_unreported()->name, "1");
  pending.TakeSlot(1);  // the mark moves on
  EXPECT_EQ(pending.oldest_unreported()->name, "2");
  pending.TakeSlot(0);
  EXPECT_EQ(pending.oldest()->name, "2");
  pending.MarkReported();
  pending.MarkReported();
  EXPECT_EQ(pending.oldest_unreported(), nullptr);
  pending.Add("4", OpKind::kAllreduce, 0, At(4));
  EXPECT_EQ(pending.oldest_unreported()->name, "4");
  EXPECT_EQ(pending.NewerThan(*pending.oldest())->name, "3");
  pending.Add("5", OpKind::kAllreduce, 1, At(0));  // a clock that went back
  EXPECT_EQ(pending.Find("5", 1)->since, At(4));
}

TEST(PendingSubmissions, RenewedItIsTheNewestAndUnreported) {
  PendingSubmissions pending;
  pending.Add("join", OpKind::kJoin, -1, At(1));
  pending.Add("x", OpKind::kAllreduce, 0, At(2));
  pending.MarkReported();
  pending.MarkReported();
  pending.Renew("join", At(5));
  EXPECT_EQ(pending.oldest()->name, "x");
  EXPECT_EQ(pending.oldest_unreported()->name, "join");
  EXPECT_EQ(pending.oldest_unreported()->since, At(5));
  pending.Renew("nothing", At(6));
  EXPECT_EQ(pending.size(), 2u);
  pending.Take("join", -1);
  EXPECT_EQ(pending.oldest_unreported(), nullptr);
}

}  // namespace
}  // namespace hora
