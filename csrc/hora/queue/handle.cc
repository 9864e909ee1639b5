#include "hora/queue/handle.h"

#include <new>
#include <utility>

#include "hora/base/check.h"

namespace hora {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

Gathered::Gathered(std::vector<std::int64_t> rows_by_rank, std::size_t bytes)
    : rows_by_rank_(std::move(rows_by_rank)),
      size_(bytes),
      data_(static_cast<std::byte*>(::operator new[](bytes == 0 ? 1 : bytes, kAlignment))) {}

void Gathered::Free::operator()(std::byte* data) const { ::operator delete[](data, kAlignment); }

void Handle::Complete(Status status, std::vector<std::shared_ptr<Gathered>> gathered,
                      int last_joined) {
  Check(!done(), "a handle completes once");
  status_ = std::move(status);
  gathered_ = std::move(gathered);
  last_joined_ = last_joined;
  done_.store(true);
}

}  // namespace hora
