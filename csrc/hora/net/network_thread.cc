#include "hora/net/network_thread.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <exception>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"

namespace hora {

Status NetworkThread::Start(const char* name, std::function<void()> body) {
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) {
    return Error(StatusCode::kResource, "cannot make the descriptor that wakes {}: {}", name,
                 std::strerror(errno));
  }
  Status status;
  // Signals belong to the threads of the program, which may be waiting to be interrupted by one.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::jthread([run = std::move(body), name] {
      pthread_setname_np(pthread_self(), name);
      try {
        run();
      } catch (const std::exception& failure) {
        Log(LogLevel::kError, -1, fmt::format("the thread {} has ended: {}", name, failure.what()));
      }
    });
  } catch (const std::exception& failure) {
    status = Error(StatusCode::kResource, "cannot start the thread {}: {}", name, failure.what());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

void NetworkThread::Stop() {
  stopping_.store(true);
  if (!thread_.joinable()) return;
  Wake();
  thread_.join();
}

void NetworkThread::Wake() const {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

void NetworkThread::TakeWake() const {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof(count));
}

void NetworkThread::CloseInForkedChild() noexcept {
  if (wake_.valid()) close(wake_.get());
}

int PollTimeoutMs(TimePoint deadline) {
  const TimePoint now = SteadyClock::Instance().Now();
  if (deadline <= now) return 0;
  if (deadline - now > std::chrono::hours(1)) return 3'600'000;
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count());
}

bool HasClosed(int fd) {
  pollfd asked{fd, POLLRDHUP, 0};
  return poll(&asked, 1, 0) > 0 && (asked.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace hora
