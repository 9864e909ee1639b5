// Where submissions wait from the call that makes them until they are done.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/status.h"
#include "hora/queue/entry_table.h"
#include "hora/queue/tensor_entry.h"

namespace hora {

// What somebody who asks is told about an operation that is not done.
struct PendingOperation {
  OpKind kind = OpKind::kAllreduce;
  std::string name;
  TimePoint since;  // submitted, to some milliseconds
};

// Owns the entries, which the stages pass on by pointer. Push, Pending and the counts: any thread;
// the rest: whoever negotiates or executes, each with entries of its own. Nothing blocks for longer
// than a look-up; the steady state does not allocate.
class TensorQueue {
 public:
  // kInvalidArgument when the name is still in use, or this rank has joined and waits for the
  // others; after Close, the status given to it.
  Status Push(TensorEntry&& entry);

  // Appends the entries pushed since the last call to `fresh`. Each is valid, and does not change,
  // until it is removed.
  void Drain(std::vector<TensorEntry*>& fresh);

  // The pending entry of that name, or null.
  TensorEntry* Find(std::string_view name);

  // Ends the entry: its name may be used again, and so may its memory.
  std::shared_ptr<Handle> Remove(TensorEntry* entry);
  // The same for many at once; appends their handles, in the same order.
  void Remove(std::span<TensorEntry* const> entries, std::vector<std::shared_ptr<Handle>>& handles);

  // Push fails with `status` from now on; what is pending stays.
  void Refuse(Status status);
  // Ends the queue: Push fails with `status` from now on. Returns the handles of what was pending.
  std::vector<std::shared_ptr<Handle>> Close(Status status);

  bool has_fresh() const { return fresh_count_.load() != 0; }
  std::size_t fresh_bytes() const { return fresh_bytes_.load(); }  // what Drain would hand over
  std::size_t pending() const { return pending_count_.load(); }
  std::vector<PendingOperation> Pending() const;  // in order of submission

 private:
  std::shared_ptr<Handle> End(TensorEntry* entry);  // mutex_ held

  mutable std::mutex mutex_;
  // All of these: mutex_.
  EntryTable entries_;
  std::vector<TensorEntry*> fresh_;
  bool joined_ = false;  // a join is pending
  TimePoint newest_{};   // submission; each is later than the one before
  Status closed_;

  // Written under mutex_; fresh_count_ last, so whoever sees it sees the others.
  std::atomic<std::size_t> fresh_count_{0};
  std::atomic<std::size_t> fresh_bytes_{0};
  std::atomic<std::size_t> pending_count_{0};
};

}  // namespace hora
