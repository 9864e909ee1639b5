#include "hora/engine/symmetric_allocation.h"

#include <string>
#include <utility>
#include <vector>

#include "hora/base/format.h"
#include "hora/engine/agreement.h"
#include "hora/engine/process_set_text.h"

namespace hora {

Result<std::shared_ptr<SymmetricMemory>> SymmetricAllocator::Allocate(std::size_t bytes,
                                                                      std::string_view what) {
  const std::lock_guard one_at_a_time(mutex_);
  const std::string name = fmt::format("hora.symmetric_memory.{}", count_++);
  if (set_->size() == 1) return nullptr;
  Status status = CheckWishes(name + ".wish", bytes, what);
  if (!status.ok()) return Fail(std::move(status));
  if (bytes == 0) return nullptr;

  // Nobody has touched anything yet; whoever sees no room says so before that changes.
  status = heap_ == nullptr ? Begin() : Status::Ok();
  if (status.ok()) status = heap_->CheckRoom(bytes);
  status = AgreeOnStatus(*set_, name + ".room", status, patience_);
  std::shared_ptr<SymmetricMemory> region;
  if (status.ok()) {
    Result<std::shared_ptr<SymmetricMemory>> mapped = heap_->Map(bytes);
    if (mapped) region = std::move(*mapped);
    const Status made = mapped ? region->MakeSlice() : mapped.error();
    status = AgreeOnStatus(*set_, name + ".made", made, patience_);
  }
  if (!status.ok()) {
    return Fail(Error(status.code(), "symmetric memory of {} on each of {} ranks: {}", what,
                      set_->size(), status.message()));
  }
  region->MapOthers();
  if (!announced_) {
    status = set_->LookForSymmetricMemory(heap_, patience_);
    if (!status.ok()) return Fail(std::move(status));
    announced_ = true;
  }
  return region;
}

// Ranks that want different things would otherwise reduce what does not belong together.
Status SymmetricAllocator::CheckWishes(const std::string& name, std::size_t bytes,
                                       std::string_view what) {
  const std::string wish = fmt::format("{} ({} bytes)", what, bytes);
  const Result<std::vector<std::string>> wishes = ExchangeTexts(*set_, name, wish, patience_);
  if (!wishes) return wishes.error();
  bool differ = false;
  std::string each;
  for (std::size_t place = 0; place < wishes->size(); ++place) {
    differ = differ || (*wishes)[place] != wishes->front();
    each += fmt::format("{}rank {}: {}", place == 0 ? "" : "; ",
                        set_->names().Of(static_cast<int>(place)), (*wishes)[place]);
  }
  if (!differ) return Status::Ok();
  return InProcessSet(
      set_->id(),
      Error(StatusCode::kMismatch,
            "ranks ask for different symmetric memory: {}. Every rank must ask for the same, in "
            "the same order",
            each));
}

Status SymmetricAllocator::Begin() {
  Result<std::shared_ptr<SymmetricHeap>> heap =
      SymmetricHeap::Create(host_->fd(), set_->id(), set_->rank(), set_->size());
  if (!heap) return heap.error();
  heap_ = std::move(*heap);
  return Status::Ok();
}

}  // namespace hora
