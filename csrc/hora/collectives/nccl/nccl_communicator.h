// The ranks of a process set on one device each.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "hora/base/clock.h"
#include "hora/collectives/nccl/nccl_library.h"
#include "hora/net/store.h"
#include "hora/tensor/rank_names.h"

namespace hora {

struct NcclCommunicatorOptions {
  int rank = 0;
  int size = 1;
  int device = 0;                // the calling thread's, too
  RankNames names;               // for texts
  std::string name;              // equal on the ranks, unique in the job: where the id travels
  Duration patience{};           // of creation, and of a call that is in progress
  std::function<Status()> lost;  // why the group has ended elsewhere; may be empty
};

// Owns a communicator that was created without blocking, so that every wait for it has a deadline
// and ends soon when the group does. One thread at a time calls NCCL through it; Check and Abort
// come from any thread.
class NcclCommunicator {
 public:
  // All ranks call it. The unique id travels through the job's authenticated store.
  static Result<std::unique_ptr<NcclCommunicator>> Create(
      std::shared_ptr<const NcclLibrary> library, Store& store, NcclCommunicatorOptions options);
  ~NcclCommunicator();  // finalises; aborts where that does not end within the patience
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Calls `start(api, comm)`, which puts operations on a stream between group_start and group_end,
  // and waits until NCCL has taken them. Not OK is final: the communicator was aborted, and the
  // text names the ranks, what NCCL said, and what to look at.
  Status Enqueue(const std::function<nccl::Result(const nccl::Api&, nccl::Comm)>& start);

  // What has gone wrong with operations that are on a stream: asks NCCL and options.lost. Not OK
  // has aborted the communicator, so that streams do not wait for ever.
  Status Check();
  void Abort(const Status& cause);

  // NCCL keeps `memory` registered for this communicator while the returned object lives; null
  // where the version cannot.
  std::shared_ptr<void> Register(std::byte* memory, std::size_t bytes);

  // The ranks of `color` (all call it); kInvalidArgument where the version has no split.
  Result<std::unique_ptr<NcclCommunicator>> Split(int color, NcclCommunicatorOptions options);

 private:
  NcclCommunicator(std::shared_ptr<const NcclLibrary> library, NcclCommunicatorOptions options);
  Status AwaitReady(const std::string& what);
  Status Failed(const std::string& what, nccl::Result result);

  const std::shared_ptr<const NcclLibrary> library_;
  const NcclCommunicatorOptions options_;
  std::mutex mutex_;           // who may touch comm_
  nccl::Comm comm_ = nullptr;  // mutex_; null once aborted
  Status failure_;             // mutex_
};

}  // namespace hora
