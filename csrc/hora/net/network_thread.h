// A thread that serves descriptors: it has a name, takes no signals and can be woken.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "hora/base/clock.h"
#include "hora/base/status.h"
#include "hora/base/unique_fd.h"

namespace hora {

// Owns the thread and an eventfd. Wake and stopping may be called by any thread, the rest by the
// owner. The thread looks at `stopping` whenever wake_fd is readable. Exceptions end it with a log
// line, never the process.
class NetworkThread {
 public:
  NetworkThread() = default;
  ~NetworkThread() { Stop(); }
  NetworkThread(const NetworkThread&) = delete;
  NetworkThread& operator=(const NetworkThread&) = delete;

  // kResource when the process may have no more threads or descriptors.
  Status Start(const char* name, std::function<void()> body);
  void Stop();  // tells it to end and waits until it has

  bool stopping() const { return stopping_.load(); }
  int wake_fd() const { return wake_.get(); }
  void Wake() const;
  void TakeWake() const;  // wake_fd is not readable any more

  void CloseInForkedChild() noexcept;

 private:
  std::atomic<bool> stopping_{false};
  UniqueFd wake_;
  std::jthread thread_;
};

// For poll(2): rounded up, not negative, at most an hour.
int PollTimeoutMs(TimePoint deadline);

// The other end has closed its side.
bool HasClosed(int fd);

}  // namespace hora
