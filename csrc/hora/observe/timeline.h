// What happened to each operation on this rank and when, as a Chrome trace (Perfetto reads it).
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "hora/base/clock.h"
#include "hora/base/status.h"
#include "hora/observe/observer.h"
#include "hora/observe/timeline_queue.h"

namespace hora {

// Off until Start; while it is off an event costs one relaxed load. While it is on, events go
// through a bounded queue to a writer thread, so that the progress contexts never wait for a disk;
// what does not fit is dropped, and the file says how much that was. What happened more than a few
// hundredths of a second ago is in the file, so a trace of a process that was killed is readable.
// Start and Stop: any thread, any time.
class Timeline final : public Observer {
 public:
  // `clock` outlives the timeline.
  explicit Timeline(int rank, const Clock& clock = SteadyClock::Instance());
  ~Timeline() override;  // Stop
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  // One that is being written is completed first, as by Stop. kResource when a file cannot be
  // written, or when no thread can be started that writes it. Timestamps are microseconds since the
  // epoch of the wall clock, so that the files of several ranks can be merged. `mark_cycles`: with
  // an instant for every agreement. Overwrites `path`.
  Status Start(const std::string& path, bool mark_cycles);
  // Blocks until the file is complete. kInvalidArgument when none is being written, kResource when
  // something could not be written.
  Status Stop();
  bool on() const { return on_.load(std::memory_order_relaxed); }

  void OnSubmit(const OpLabel& label, std::uint64_t bytes) override;
  void OnAgreed(const OpLabel& label) override;
  void OnBatchBegin(const OpLabel& label, std::size_t members, std::uint64_t bytes) override;
  void OnBatchEnd(const OpLabel& label, const Status& status) override;
  void OnComplete(const OpLabel& label, const Status& status) override;

 private:
  struct File;

  void Record(TraceEvent event, const OpLabel& label, const Status* status);
  void Write(File& file);  // the writer thread's life
  Status Complete();       // the file that is being written, if there is one; control_mutex_ held

  const int rank_;
  const Clock& clock_;
  std::atomic<bool> on_{false};
  TraceQueue queue_;

  std::mutex control_mutex_;  // guards what follows; held while Start and Stop run
  std::unique_ptr<File> file_;
  std::thread writer_;  // uses *file_ until it is joined
};

}  // namespace hora
