// Counters of one engine.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "hora/observe/observer.h"

namespace hora {

// Any thread may read; each counter is exact, the set of them is not a consistent snapshot.
class Metrics final : public Observer {
 public:
  void OnSubmit(const OpLabel& label, std::uint64_t bytes) override;
  void OnAgreed(const OpLabel& label) override;
  void OnBatchBegin(const OpLabel& label, std::size_t members, std::uint64_t bytes) override;
  void OnInPlace(const OpLabel& label, std::uint64_t bytes) override;
  void OnComplete(const OpLabel& label, const Status& status) override;

  // Name and value, in a fixed order.
  std::vector<std::pair<std::string_view, std::uint64_t>> Values() const;

 private:
  using Counter = std::atomic<std::uint64_t>;

  Counter submitted_{0};
  Counter submitted_bytes_{0};
  Counter agreed_{0};
  Counter completed_{0};
  Counter failed_{0};
  Counter batches_{0};
  Counter batch_bytes_{0};
  Counter in_place_bytes_{0};
};

}  // namespace hora
