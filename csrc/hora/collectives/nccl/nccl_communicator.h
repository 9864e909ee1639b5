// The ranks of a process set on one device each.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/clock.h"
#include "hora/collectives/nccl/nccl_comm.h"
#include "hora/collectives/nccl/nccl_library.h"
#include "hora/collectives/nccl/share_id.h"
#include "hora/tensor/rank_names.h"

namespace hora {

struct NcclCommunicatorOptions {
  int rank = 0;
  int size = 1;
  int device = 0;                         // the calling thread's, too
  RankNames names;                        // for texts
  std::string name;                       // of the process set, for texts
  Duration patience{};                    // of creation
  std::optional<Duration> call_patience;  // of a call that is in progress; none: the same
  std::function<Status()> lost;  // why the group has ended elsewhere; any thread; may be empty
  std::function<void()> enter;   // makes the device that of a thread of NCCL's end; may be empty
  Duration farewell = std::chrono::seconds(5);  // what the end, and an abort, get in End()
};

// Owns a communicator that was created without blocking, so that every wait for it has a deadline
// and ends soon when the group does. One thread at a time calls NCCL through it; Check, Abort and
// giving a registration back come from any thread. A failure is known to every caller at once, and
// nobody waits for the abort that it begins but End.
class NcclCommunicator {
 public:
  // All ranks call it. The unique id, or why rank 0 has none, travels by `share_id`. kTimeout: it
  // took longer than the patience; else what NCCL, `share_id` or options.lost said.
  static Result<std::unique_ptr<NcclCommunicator>> Create(
      std::shared_ptr<const NcclLibrary> library, const ShareId& share_id,
      NcclCommunicatorOptions options);
  ~NcclCommunicator();  // End
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  const NcclCommunicatorOptions& options() const { return options_; }
  const NcclLibrary& library() const { return *library_; }

  // Calls `start(api, comm)`, which puts operations on a stream, as one group of NCCL's; `what` it
  // is, for texts. Returns when NCCL has taken them: they are on the stream. Not OK is final: the
  // communicator was aborted, and the text names the ranks, what NCCL said, and what to look at.
  using Start = std::function<nccl::Result(const nccl::Api&, nccl::Comm)>;
  Status Enqueue(std::string_view what, const Start& start);

  // What has gone wrong with operations that are on a stream: asks NCCL, unless somebody is just
  // calling it, and options.lost. Not OK aborts the communicator, so that streams do not wait for
  // ever. Neither waits.
  Status Check();
  void Abort(const Status& cause);

  // The end, in steps, so that those of several may go on at the same time; nothing else may be
  // called afterwards. BeginEnd begins to finalise. AwaitEnd aborts, without waiting for that, what
  // has not ended by `until`. End: false: NCCL is still at it; then it is left to itself, and may
  // use what it was given for ever.
  void BeginEnd();
  void AwaitEnd(TimePoint until);
  bool End(TimePoint deadline);
  bool End();  // all of it, with options.farewell for either wait (at most the patience at first)

  // NCCL keeps `memory` registered for this communicator while the returned object lives; null
  // where the version cannot, or is told not to: the same on all ranks. kResource: it is this
  // memory that cannot; whoever goes on without it must be sure that the others do, too.
  Result<std::shared_ptr<void>> Register(std::byte* memory, std::size_t bytes);

  // The ranks of `color` (all call it, in the same order; ≥ 0), by options.rank. options.name is
  // for texts only. A failure aborts this communicator, too.
  Result<std::unique_ptr<NcclCommunicator>> Split(int color, NcclCommunicatorOptions options);
  // The ranks but those of `leaving`, which need not be there any more: the others call it, and
  // stay in their order. Works on this one's streams are given up, and so is this communicator.
  // kInvalidArgument, and nothing done: NCCL is older than 2.27, or this rank is to leave.
  Result<std::unique_ptr<NcclCommunicator>> Shrink(std::vector<int> leaving,
                                                   NcclCommunicatorOptions options);

 private:
  NcclCommunicator(std::shared_ptr<const NcclLibrary> library, NcclCommunicatorOptions options);
  // What `begin(api, comm, draft)` makes of this one.
  template <class Begin>
  Result<std::unique_ptr<NcclCommunicator>> MakePart(std::string_view what, Begin begin,
                                                     NcclCommunicatorOptions options);
  Status AwaitReady(std::string_view what, Duration patience, TimePoint deadline);
  Status AwaitCall(std::string_view what);
  TimePoint Deadline() const { return SteadyClock::Instance().Now() + options_.patience; }
  Status Failed(std::string_view what, nccl::Result result);  // with the turn; aborts
  std::string Where() const;

  const std::shared_ptr<const NcclLibrary> library_;
  const NcclCommunicatorOptions options_;
  const std::shared_ptr<NcclComm> comm_;  // shared with registrations, and with its end
  bool is_left_ = false;
};

}  // namespace hora
