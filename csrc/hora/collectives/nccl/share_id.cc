#include "hora/collectives/nccl/share_id.h"

#include <algorithm>
#include <utility>

namespace hora {
namespace {

constexpr Duration kLookAround = std::chrono::milliseconds(250);  // between two looks at `lost`

Result<std::string> Find(Store& store, const std::string& key, const std::function<Status()>& lost,
                         TimePoint deadline) {
  while (true) {
    const TimePoint now = SteadyClock::Instance().Now();
    Result<std::string> told = store.Get(key, std::min(deadline, now + kLookAround));
    if (told) return told;
    if (Status status = lost ? lost() : Status::Ok(); !status.ok()) return Fail(status);
    if (told.error().code() != StatusCode::kTimeout || now >= deadline) return told;
  }
}

}  // namespace

ShareId OverStore(std::shared_ptr<Store> store, std::string key, bool is_first,
                  std::function<Status()> lost) {
  return [store = std::move(store), key = std::move(key), is_first, lost = std::move(lost)](
             const std::string& mine, TimePoint deadline) -> Result<std::string> {
    if (!is_first) return Find(*store, key, lost, deadline);
    if (Status status = store->Set(key, mine); !status.ok()) return Fail(status);
    return mine;
  };
}

}  // namespace hora
