#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "gtest/gtest.h"

namespace hora {

// A process of its own that runs `body` and exits with what it returns. Killed when it is still
// there at the end of the test.
class ForkedChild {
 public:
  explicit ForkedChild(const std::function<int()>& body) : pid_(fork()) {
    if (pid_ == 0) _exit(body());
  }
  ForkedChild(const ForkedChild&) = delete;
  ForkedChild& operator=(const ForkedChild&) = delete;
  ~ForkedChild() {
    if (pid_ > 0) {
      Kill();
      Join();
    }
  }

  pid_t pid() const { return pid_; }
  void Kill() const { kill(pid_, SIGKILL); }

  // The exit status, or minus the signal that ended it.
  int Join() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

// One side says when, the other one waits for it. Made before the fork.
class Signal {
 public:
  Signal() { EXPECT_EQ(pipe(ends_), 0); }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  ~Signal() {
    close(ends_[0]);
    close(ends_[1]);
  }

  void Give() const { EXPECT_EQ(write(ends_[1], "!", 1), 1); }
  void Take() const {
    char said = 0;
    EXPECT_EQ(read(ends_[0], &said, 1), 1);
  }

 private:
  int ends_[2] = {-1, -1};
};

}  // namespace hora
