// How NCCL's id comes from rank 0 to the others by way of a store.
#include <gtest/gtest.h>

#include <future>

#include "hora/collectives/nccl/share_id.h"
#include "support/memory_store.h"

namespace hora {
namespace {

TimePoint In(Duration duration) { return SteadyClock::Instance().Now() + duration; }
constexpr Duration kLong = std::chrono::seconds(60);

class NcclShareId : public testing::Test {
 protected:
  const std::shared_ptr<MemoryStore> store_ = std::make_shared<MemoryStore>();
};

TEST_F(NcclShareId, TheOthersGetTheTextOfTheFirst) {
  auto other = std::async(std::launch::async,
                          [&] { return OverStore(store_, "id", false, {})("", In(kLong)); });
  const std::string text("any\0bytes", 9);
  EXPECT_EQ(OverStore(store_, "id", true, {})(text, In(kLong)).value(), text);
  EXPECT_EQ(other.get().value(), text);
}

TEST_F(NcclShareId, GroupsHaveKeysOfTheirOwn) {
  EXPECT_TRUE(OverStore(store_, "one", true, {})("1", In(kLong)));
  EXPECT_TRUE(OverStore(store_, "two", true, {})("2", In(kLong)));
  EXPECT_EQ(OverStore(store_, "one", false, {})("", In(kLong)).value(), "1");
}

TEST_F(NcclShareId, TheDeadlineEndsTheWait) {
  const auto told = OverStore(store_, "id", false, {})("", In(std::chrono::milliseconds(20)));
  EXPECT_EQ(told.error().code(), StatusCode::kTimeout);
}

TEST_F(NcclShareId, TheEndOfTheGroupEndsTheWait) {
  const Status ended(StatusCode::kPeerFailed, "rank 0 has died");
  EXPECT_EQ(OverStore(store_, "id", false, [&] { return ended; })("", In(kLong)).error(), ended);
}

// Refuses everything.
class NoStore final : public Store {
 public:
  Result<Meeting> Meet(int, int, const std::string&, TimePoint) override { return Fail(Why()); }
  Status Set(const std::string&, const std::string&) override { return Why(); }
  Result<std::string> Get(const std::string&, TimePoint) override { return Fail(Why()); }
  static Status Why() { return Status(StatusCode::kShutDown, "the store has ended"); }
};

TEST_F(NcclShareId, AStoreThatRefusesIsHeard) {
  const auto store = std::make_shared<NoStore>();
  for (const bool is_first : {true, false}) {
    const auto told = OverStore(store, "id", is_first, {})(is_first ? "text" : "", In(kLong));
    EXPECT_EQ(told.error(), NoStore::Why());
  }
}

}  // namespace
}  // namespace hora
