// The backend of one host passes what is asked of every backend.
#include "collectives/backend_conformance.h"

namespace hora {
namespace {

class ShmRanks final : public BackendGroup {
 public:
  ShmRanks(int size, std::size_t window_bytes)
      : board_(Board::Create({.size = size, .window_bytes = window_bytes}).value()) {
    for (int rank = 0; rank < size; ++rank) {
      const ShmLaneOptions options{.rank = rank,
                                   .wait = WaitPolicy::For(size, UsableCores()),
                                   .patience = std::chrono::seconds(60)};
      backends_.push_back(std::make_unique<ShmBackend>(board_, options));
    }
  }

  int size() const override { return static_cast<int>(backends_.size()); }
  CollectiveBackend& backend(int rank) override {
    return *backends_[static_cast<std::size_t>(rank)];
  }

 private:
  std::shared_ptr<Board> board_;
  std::vector<std::unique_ptr<ShmBackend>> backends_;
};

class ShmConformance : public testing::TestWithParam<int> {};

TEST_P(ShmConformance, HasTheBitsOfOneReduction) {
  ShmRanks group(GetParam(), 1024);
  ExpectConformance(group, {.in_rank_order = true, .edges = {1024}});
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmConformance, testing::Values(1, 2, 3, 4),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace hora
