// N ranks as N threads of the test process, each with a real engine on one shared board.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hora/engine/engine.h"

namespace hora::testing {

// What a test does as one rank. Blocking calls fail the test instead of hanging: each has a
// deadline.
class RankContext {
 public:
  RankContext(int rank, int size, Engine& engine) : rank_(rank), size_(size), engine_(engine) {}

  int rank() const { return rank_; }
  int size() const { return size_; }
  Engine& engine() { return engine_; }

  // Submits and returns the handle; a refused submission is in the handle's status, already done.
  std::shared_ptr<Handle> Submit(Request request, std::span<std::byte> input,
                                 std::span<std::byte> output, bool will_wait = false);
  // The status of the finished operation.
  Status Wait(const std::shared_ptr<Handle>& handle);

  std::shared_ptr<Handle> Allreduce(const std::string& name, std::vector<float>& values,
                                    ReduceOp op = ReduceOp::kSum);
  std::shared_ptr<Handle> Broadcast(const std::string& name, std::vector<float>& values, int root);
  std::shared_ptr<Handle> Allgather(const std::string& name, std::vector<float>& rows);
  std::shared_ptr<Handle> Barrier(const std::string& name);

 private:
  int rank_;
  int size_;
  Engine& engine_;
};

struct RankGroupOptions {
  int size = 2;
  Config config;
};

// Starts the engines, runs `body` on every rank's thread, shuts down (concurrently, as processes
// would). The first exception of any rank is rethrown.
void RunRanks(const RankGroupOptions& options, const std::function<void(RankContext&)>& body);
inline void RunRanks(int size, const std::function<void(RankContext&)>& body) {
  RunRanks(RankGroupOptions{.size = size, .config = {}}, body);
}

}  // namespace hora::testing
