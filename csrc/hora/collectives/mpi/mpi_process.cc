#include "hora/collectives/mpi/mpi_process.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "hora/collectives/mpi/mpi_error.h"

namespace hora::mpi_plugin {
namespace {

constexpr std::chrono::seconds kFinalisePatience{10};
constexpr int kQuickLooks = 200;                        // before the core is offered to others
constexpr std::chrono::milliseconds kShortestPause{1};  // between looks into MPI
constexpr std::chrono::milliseconds kLongestPause{64};  // when nothing has happened for some time

std::atomic<bool> failed{false};
MpiProcess* the_process = nullptr;  // for exit handlers

bool IsInitialised() {
  int flag = 0;
  MPI_Initialized(&flag);
  return flag != 0;
}

bool IsFinalised() {
  int flag = 0;
  MPI_Finalized(&flag);
  return flag != 0;
}

}  // namespace

MpiProcess& MpiProcess::Started() {
  // Not destroyed: operations may be under way on its thread when the process exits.
  static MpiProcess* const process = new MpiProcess();
  return *process;
}

std::string MpiProcess::Version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int bytes = 0;
  MPI_Get_library_version(text, &bytes);
  const std::string all(text);
  return all.substr(0, all.find_first_of("\r\n"));
}

std::string MpiProcess::WhyNot() {
  if (IsFinalised()) return "this process has already finalised MPI";
  if (IsInitialised()) return "";
  // What launchers tell their processes: Open MPI, MPICH and what descends from it, PMIx.
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMI_FD", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return "";
  }
  return "no launcher of MPI has started this process; start with mpirun or horarun --mpi";
}

void MpiProcess::NoteFailure() noexcept { failed = true; }

MpiProcess::MpiProcess() {
  if (const std::string why = WhyNot(); !why.empty()) throw std::runtime_error(why);
  thread_ = std::thread([this] { Serve(); });
  thread_.detach();
  if (!IsInitialised()) {
    RunOnThread([this] {
      Initialise();
      return true;
    });
    the_process = this;
    looks_in_ = true;
    std::atexit(FinaliseAtExit);
    return;
  }
  int provided = 0;
  Require(MPI_Query_thread(&provided), "MPI_Query_thread");
  if (provided == MPI_THREAD_SINGLE || provided == MPI_THREAD_FUNNELED) {
    throw std::runtime_error(
        "the program has initialised MPI for calls of one thread only; ask for "
        "MPI_THREAD_MULTIPLE or MPI_THREAD_SERIALIZED there, or leave it to hora");
  }
  any_thread_ = looks_in_ = provided == MPI_THREAD_MULTIPLE;
}

void MpiProcess::Initialise() {
  int provided = 0;
  Require(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  any_thread_ = provided == MPI_THREAD_MULTIPLE;
  // Creating a group reports its errors here.
  Require(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

void MpiProcess::CountGroup(int change) {
  if (!looks_in_) return;
  {
    const std::lock_guard lock(mutex_);
    groups_ += change;
  }
  posted_.notify_one();
}

void MpiProcess::Run(Step step) {
  ++runs_;
  if (!any_thread_) return RunOnThread(std::move(step));
  for (int looks = 0; !step(); ++looks) {
    if (looks > kQuickLooks) sched_yield();
  }
}

void MpiProcess::RunOnThread(Step step) {
  std::future<void> done;
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(step), {}});
    done = jobs_.back().done.get_future();
  }
  posted_.notify_one();
  done.get();  // steps keep deadlines themselves
}

void MpiProcess::AwaitJob(std::chrono::milliseconds pause) {
  std::unique_lock lock(mutex_);
  const auto has_job = [&] { return !jobs_.empty(); };
  if (groups_ == 0) return posted_.wait(lock, [&] { return has_job() || groups_ > 0; });
  if (posted_.wait_for(lock, pause, has_job)) return;
  lock.unlock();
  int ignored = 0;
  if (!IsFinalised()) {
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_SELF, &ignored, MPI_STATUS_IGNORE);
  }
}

void MpiProcess::Serve() {
  std::list<Job> active;
  int idle_rounds = 0;
  auto pause = kShortestPause;
  std::uint32_t seen_runs = 0;
  for (;;) {
    if (active.empty()) {
      AwaitJob(pause);
      pause = std::min(2 * pause, kLongestPause);
      if (const std::uint32_t runs = runs_; runs != std::exchange(seen_runs, runs)) {
        pause = kShortestPause;
      }
    }
    {
      const std::lock_guard lock(mutex_);
      active.splice(active.end(), jobs_);
    }
    const std::size_t before = active.size();
    for (auto job = active.begin(); job != active.end();) {
      try {
        if (!job->step()) {
          ++job;
          continue;
        }
        job->done.set_value();
      } catch (...) {
        job->done.set_exception(std::current_exception());
      }
      job = active.erase(job);
    }
    idle_rounds = active.size() == before ? idle_rounds + 1 : 0;
    if (idle_rounds > kQuickLooks) sched_yield();
  }
}

void MpiProcess::FinaliseAtExit() {
  if (failed || IsFinalised()) return;
  auto finalised = std::make_shared<std::promise<void>>();
  std::future<void> done = finalised->get_future();
  {
    const std::lock_guard lock(the_process->mutex_);
    the_process->jobs_.push_back({[finalised] {
                                    MPI_Finalize();
                                    finalised->set_value();
                                    return true;
                                  },
                                  {}});
  }
  the_process->posted_.notify_one();
  if (done.wait_for(kFinalisePatience) != std::future_status::ready) {
    std::fputs("hora: MPI_Finalize takes longer than 10 s, exiting without it\n", stderr);
  }
}

}  // namespace hora::mpi_plugin
