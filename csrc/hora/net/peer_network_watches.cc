#include "hora/net/peer_network_watches.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"

namespace hora {

Result<std::unique_ptr<DescriptorWatches>> DescriptorWatches::Open() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return Fail(
        Error(StatusCode::kResource, "cannot make an epoll descriptor: {}", std::strerror(errno)));
  }
  return std::unique_ptr<DescriptorWatches>(new DescriptorWatches(std::move(epoll)));
}

bool DescriptorWatches::Control(int operation, int fd, std::uint64_t id) {
  epoll_event event{.events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data = {.u64 = id}};
  return epoll_ctl(epoll_.get(), operation, fd, &event) == 0;
}

void DescriptorWatches::Watch(int fd, std::function<void()> ready) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t id = next_id_++;
  Watched& watched = by_fd_[fd];
  fd_of_.erase(watched.id);
  watched = {id, std::make_shared<const std::function<void()>>(std::move(ready))};
  fd_of_[id] = fd;
  if (Control(EPOLL_CTL_ADD, fd, id)) return;
  if (errno == EEXIST && Control(EPOLL_CTL_MOD, fd, id)) return;
  Log(LogLevel::kError, -1,
      fmt::format("descriptor {} cannot be watched: {}; see /proc/sys/fs/epoll/max_user_watches",
                  fd, std::strerror(errno)));
}

void DescriptorWatches::Rearm(int fd) {
  const std::lock_guard lock(mutex_);
  const auto found = by_fd_.find(fd);
  if (found != by_fd_.end()) Control(EPOLL_CTL_MOD, fd, found->second.id);
}

void DescriptorWatches::Unwatch(int fd) {
  std::unique_lock lock(mutex_);
  const auto found = by_fd_.find(fd);
  if (found == by_fd_.end()) return;
  const std::uint64_t id = found->second.id;
  Control(EPOLL_CTL_DEL, fd, id);  // fails when its owner has closed it, which is as good
  fd_of_.erase(id);
  by_fd_.erase(found);
  // `ready` does not block, so neither does this for long.
  call_ends_.wait(lock, [&] { return called_ != id; });
}

void DescriptorWatches::Dispatch() {
  std::array<epoll_event, 32> events;
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
    std::shared_ptr<const std::function<void()>> ready;
    {
      const std::lock_guard lock(mutex_);
      const auto fd = fd_of_.find(id);
      if (fd == fd_of_.end()) continue;  // not watched any more
      ready = by_fd_[fd->second].ready;
      called_ = id;
    }
    (*ready)();
    {
      const std::lock_guard lock(mutex_);
      called_ = 0;
    }
    call_ends_.notify_all();
  }
}

}  // namespace hora
