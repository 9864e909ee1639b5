// N ranks as N threads of the test process, each with a real engine on one shared board.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hora/base/rank_set.h"
#include "hora/engine/engine.h"

namespace hora::testing {

// What a test does as one rank of one process set. Blocking calls fail the test instead of hanging:
// each has a deadline.
class RankContext {
 public:
  struct Buffers {
    std::span<std::byte> input;
    std::span<std::byte> output;
  };

  // The global set, to begin with.
  RankContext(Engine& engine, std::shared_ptr<ProcessSet> set)
      : engine_(&engine), set_(std::move(set)) {}

  int rank() const { return set_->rank(); }  // place in the set
  int size() const { return set_->size(); }
  int global_rank() const { return engine_->topology().rank; }
  Engine& engine() { return *engine_; }
  ProcessSet& set() { return *set_; }

  // Collective over all ranks; a failure throws.
  int AddSet(const std::vector<int>& ranks);
  void RemoveSet(int id);
  RankContext In(int id);  // the same rank, as a member of another set
  // The same rank, whose tensors are said to be on the GPU that the engine has chosen; what it
  // submits starts after `ready`. The device works on memory of the host, so any vector will do.
  RankContext OnDevice(EventPool::Lease ready = nullptr);

  // Submits and returns the handle; a refused submission is in the handle's status, already done.
  std::shared_ptr<Handle> Submit(Request request, std::span<std::byte> input,
                                 std::span<std::byte> output, bool will_wait = false);
  std::shared_ptr<Handle> SubmitGroup(Request request, const std::vector<Buffers>& group,
                                      std::vector<std::int64_t> splits = {},
                                      bool will_wait = false);
  // The status of the finished operation; what is on a device has been waited for.
  Status Wait(const std::shared_ptr<Handle>& handle);
  Status WaitForHandle(const std::shared_ptr<Handle>& handle);  // only
  void WaitForDevice(const Handle& handle);

  std::shared_ptr<Handle> Allreduce(const std::string& name, std::vector<float>& values,
                                    ReduceOp op = ReduceOp::kSum);
  std::shared_ptr<Handle> Broadcast(const std::string& name, std::vector<float>& values, int root);
  std::shared_ptr<Handle> Allgather(const std::string& name, std::vector<float>& rows);
  std::shared_ptr<Handle> Alltoall(const std::string& name, std::vector<float>& rows,
                                   std::vector<std::int64_t> splits);
  // `rows`: one number each; `mine`: this rank's share, of the right size already.
  std::shared_ptr<Handle> Reducescatter(const std::string& name, std::vector<float>& rows,
                                        std::vector<float>& mine, ReduceOp op = ReduceOp::kSum);
  std::shared_ptr<Handle> GroupedAllreduce(const std::string& name,
                                           std::vector<std::vector<float>>& tensors);
  std::shared_ptr<Handle> Barrier(const std::string& name);
  std::shared_ptr<Handle> Join();

 private:
  Engine* engine_;
  std::shared_ptr<ProcessSet> set_;
  Device device_;
  EventPool::Lease ready_;
};

std::vector<float> FloatsOf(const Gathered& gathered);

struct RankGroupOptions {
  int size = 2;
  Config config;
  // Ranks on each of several hosts, `size` in all: they share no board, and meet over loopback TCP.
  // None: one host.
  std::vector<int> hosts;
  std::shared_ptr<DeviceRuntime> device;  // of all ranks but `without_device`; null: of none
  RankSet without_device;
};

// Starts the engines, runs `body` on every rank's thread, shuts down (concurrently, as processes
// would). The first exception of any rank is rethrown.
void RunRanks(const RankGroupOptions& options, const std::function<void(RankContext&)>& body);
inline void RunRanks(int size, const std::function<void(RankContext&)>& body) {
  RunRanks(RankGroupOptions{.size = size, .config = {}}, body);
}

}  // namespace hora::testing
