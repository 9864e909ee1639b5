// Descriptors that a thread watches on behalf of others.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "hora/base/result.h"
#include "hora/base/unique_fd.h"

namespace hora {

// See PeerNetwork::Watch. Dispatch is the thread's; any thread may call the rest, which wakes the
// thread by itself when fd() is being watched.
class DescriptorWatches {
 public:
  static Result<std::unique_ptr<DescriptorWatches>> Open();

  int fd() const { return epoll_.get(); }  // readable when Dispatch has something to do
  void Dispatch();                         // calls `ready` of every descriptor that is

  void Watch(int fd, std::function<void()> ready);
  void Rearm(int fd);
  void Unwatch(int fd);  // waits while `ready` is being called

 private:
  struct Watched {
    std::uint64_t id = 0;  // descriptors are used again, ids are not
    std::shared_ptr<const std::function<void()>> ready;
  };

  explicit DescriptorWatches(UniqueFd epoll) : epoll_(std::move(epoll)) {}
  bool Control(int operation, int fd, std::uint64_t id);

  const UniqueFd epoll_;
  std::mutex mutex_;
  std::condition_variable call_ends_;
  std::map<int, Watched> by_fd_;
  std::map<std::uint64_t, int> fd_of_;  // by id
  std::uint64_t next_id_ = 1;
  std::uint64_t called_ = 0;  // the id whose `ready` runs; 0: none
};

}  // namespace hora
