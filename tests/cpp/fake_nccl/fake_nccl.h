// What a test tells the fake NCCL, and what the fake tells the test.
#pragma once

#include <atomic>

#include "hora/collectives/nccl/nccl_api.h"

namespace hora {

// Which operation goes wrong, counted from 1 on each communicator of `rank`, or of all with -1; 0:
// none.
struct FakeNcclFaults {
  std::atomic<int> rank{-1};
  std::atomic<int> hang_at{0};                                    // until aborted
  std::atomic<int> fail_at{0};                                    // when it is put on a stream
  std::atomic<int> fail_async_at{0};                              // on the stream, which then hangs
  std::atomic<nccl::Result> failure{nccl::Result::kSystemError};  // what those fail with
  // What these fail with, unless kSuccess.
  std::atomic<nccl::Result> unique_id{nccl::Result::kSuccess};
  std::atomic<nccl::Result> creation{nccl::Result::kSuccess};
  std::atomic<nccl::Result> splitting{nccl::Result::kSuccess};
  std::atomic<nccl::Result> allocation{nccl::Result::kSuccess};
  std::atomic<bool> creation_hangs{false};  // until aborted
  struct End {                              // these: until it is cleared
    std::atomic<bool> abort_hangs{false};
    std::atomic<bool> finalize_hangs{false};
  } end;
  std::atomic<bool> registration{false};

  void Clear() {
    rank = -1;
    hang_at = fail_at = fail_async_at = 0;
    failure = nccl::Result::kSystemError;
    unique_id = creation = splitting = allocation = nccl::Result::kSuccess;
    creation_hangs = end.abort_hangs = end.finalize_hangs = registration = false;
  }
};

// One per process. The library's symbol `fake_nccl_control` gives it; any thread.
struct FakeNcclControl {
  std::atomic<int> version{22809};
  std::atomic<int> polls{0};     // in-progress answers before a non-blocking call is through
  std::atomic<int> delay_us{0};  // of every operation, on its stream
  FakeNcclFaults faults;         // in force from the next call on

  // Things that are alive: what is left at the end of a test has leaked.
  std::atomic<int> communicators{0};
  std::atomic<int> registrations{0};
  std::atomic<int> allocations{0};
  // How often.
  std::atomic<int> operations{0};
  std::atomic<int> aborts{0};
  std::atomic<int> late{0};  // operations put on a stream while a group was still in progress
};

using FakeNcclControlOf = FakeNcclControl* (*)();  // of "fake_nccl_control"

}  // namespace hora
