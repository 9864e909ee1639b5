// MPI in this process: whether it runs, who may call it, and how it ends.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace hora::mpi_plugin {

// Advances an operation; true when it is done. Throws when it has failed. Never blocks.
using Step = std::function<bool()>;

// The only one of its kind in a process; lives until the process ends.
//
// Initialises MPI on a thread of its own, unless the program has done it. If MPI may be called by
// any thread (MPI_THREAD_MULTIPLE), callers advance their own operations; otherwise that thread
// advances all of them in turn, so that operations of several groups do not wait for each other.
//
// To MPI an operation may be complete while what it sends to others still waits in this process for
// somebody to call MPI again. So while there are groups the thread looks in now and then (unless
// the program has initialised MPI for one thread at a time: then it would need to know when).
//
// What it has initialised it finalises when the process exits, for ten seconds at most, and not at
// all after a failure: peers that are gone would be waited for.
class MpiProcess {
 public:
  // Throws when MPI cannot be used.
  static MpiProcess& Started();

  // First line of what the library says about itself.
  static std::string Version();
  // Why MPI cannot be initialised here; empty when it can be.
  static std::string WhyNot();

  // Blocks until `step` is done or throws. Any thread.
  void Run(Step step);
  // One group more (1) or less (-1). Any thread.
  void CountGroup(int change);
  // No finalising any more. Any thread.
  static void NoteFailure() noexcept;

 private:
  struct Job {
    Step step;
    std::promise<void> done;
  };

  MpiProcess();
  void Initialise();
  void RunOnThread(Step step);
  void Serve();
  // Waits for a job; looks into MPI instead when none has come for so long.
  void AwaitJob(std::chrono::milliseconds pause);
  static void FinaliseAtExit();

  std::mutex mutex_;
  std::condition_variable posted_;
  std::list<Job> jobs_;  // not taken by the thread yet
  bool any_thread_ = false;
  bool looks_in_ = false;
  int groups_ = 0;
  std::atomic<std::uint32_t> runs_{0};
  std::thread thread_;
};

}  // namespace hora::mpi_plugin
