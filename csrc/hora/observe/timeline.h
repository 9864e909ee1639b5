// What happened to each operation on this rank and when, as a Chrome trace (Perfetto reads it).
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "hora/base/status.h"
#include "hora/observe/observer.h"

namespace hora {

// Off until Start; while it is off an event costs one relaxed load. While it is on, events go
// through a bounded queue to a writer thread, so that the progress contexts never wait for a disk;
// what does not fit is dropped and counted in the file. Start and Stop: any thread, any time.
class Timeline final : public Observer {
 public:
  explicit Timeline(int rank);
  ~Timeline() override;  // Stop

  // kInvalidArgument when one is being written, kResource when the file cannot be. Timestamps are
  // microseconds since the epoch of the wall clock, so that the files of several ranks can be
  // merged.
  Status Start(const std::string& path, bool mark_cycles);
  Status Stop();  // blocks until the file is complete
  bool on() const { return on_.load(std::memory_order_relaxed); }

  void OnSubmit(const OpLabel& label, std::uint64_t bytes) override;
  void OnAgreed(const OpLabel& label) override;
  void OnBatchBegin(const OpLabel& label, std::size_t members, std::uint64_t bytes) override;
  void OnBatchEnd(const OpLabel& label, const Status& status) override;
  void OnComplete(const OpLabel& label, const Status& status) override;

 private:
  class Recorder;

  const int rank_;
  std::atomic<bool> on_{false};
  std::shared_ptr<Recorder> recorder_;
};

}  // namespace hora
