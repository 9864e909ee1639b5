// Where submissions wait from the call that makes them until they are done.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/status.h"
#include "hora/queue/tensor_entry.h"

namespace hora {

// What somebody who asks is told about an operation that is not done.
struct PendingOperation {
  OpKind kind = OpKind::kAllreduce;
  std::string name;
  TimePoint since;  // submitted
};

// Owns the entries. Push, Pending and the counts: any thread; the rest: the progress context.
// Nothing blocks for longer than a map operation.
class TensorQueue {
 public:
  // kInvalidArgument when the name is still in use, or this rank has joined and waits for the
  // others; after Close, the status given to it.
  Status Push(TensorEntry entry);

  // Moves the requests pushed since the last call to the end of `fresh`; the entries stay.
  void Drain(std::vector<Request>& fresh);

  // The pending entry of that name, or null; valid until Remove.
  TensorEntry* Find(std::string_view name);

  // Takes the entry out: its name may be used again. Null when there is none.
  std::shared_ptr<Handle> Remove(std::string_view name);

  // Ends the queue: Push fails with `status` from now on. Returns the handles of what was pending.
  std::vector<std::shared_ptr<Handle>> Close(Status status);

  bool has_fresh() const { return fresh_count_.load() != 0; }
  std::size_t fresh_bytes() const { return fresh_bytes_.load(); }  // what Drain would hand over
  std::size_t pending() const { return pending_count_.load(); }
  std::vector<PendingOperation> Pending() const;  // in order of submission

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view name) const {
      return std::hash<std::string_view>{}(name);
    }
  };

  mutable std::mutex mutex_;
  struct Pended {
    TensorEntry entry;
    TimePoint since;
  };

  // All of these: mutex_.
  std::unordered_map<std::string, Pended, Hash, std::equal_to<>> entries_;  // by name
  std::vector<Request> fresh_;
  bool joined_ = false;  // a join is pending
  Status closed_;

  std::atomic<std::size_t> fresh_count_{0};
  std::atomic<std::size_t> fresh_bytes_{0};
  std::atomic<std::size_t> pending_count_{0};
};

}  // namespace hora
