#include "control/meeting_point.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <optional>
#include <thread>
#include <utility>

#include "gtest/gtest.h"

#include "hora/base/format.h"

namespace hora {
namespace {

struct AbstractAddress {
  explicit AbstractAddress(const std::string& name) {
    address.sun_family = AF_UNIX;
    std::copy(name.begin(), name.end(), address.sun_path + 1);
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }

  sockaddr_un address{};
  socklen_t length = 0;
};

}  // namespace

MeetingPoint::MeetingPoint(int size, Duration timeout) : size_(size), timeout_(timeout) {
  static std::atomic<int> number{0};
  name_ = fmt::format("hora-test-{}-{}", getpid(), ++number);
  KeyBytes key;
  key.fill(std::byte{0x5a});
  key_ = JobKey(key);
  Listen();
}

void MeetingPoint::Listen() {
  const AbstractAddress address(name_);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(fd.get(), address.get(), address.length), 0);
  EXPECT_EQ(listen(fd.get(), size_ + 16), 0);
  listener_ = std::move(fd);
}

HostGroupOptions MeetingPoint::OptionsOf(int rank) const {
  return {
      .rank = rank,
      .size = size_,
      .rendezvous = name_,
      .key = key_,
      .listen_fd = rank == 0 ? listener_.get() : -1,
      .tunables = {.tuning = {.fusion_threshold_bytes = 1000 + static_cast<std::uint64_t>(rank)},
                   .window_bytes = 4096,
                   .cache_capacity = 7,
                   .tree_fan_out = 2},
      .timeout = timeout_};
}

UniqueFd MeetingPoint::Connect() const {
  const AbstractAddress address(name_);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(fd.get(), address.get(), address.length), 0);
  return fd;
}

std::vector<Result<HostGroup>> FormTogether(const std::vector<HostGroupOptions>& options) {
  std::vector<Result<HostGroup>> results(options.size(), Fail(Status(StatusCode::kInternal, "")));
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < options.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = FormHostGroup(options[i]); });
  }
  threads.clear();
  return results;
}

std::vector<Result<HostGroup>> FormTogether(const MeetingPoint& point) {
  std::vector<HostGroupOptions> options;
  for (int rank = 0; rank < point.size(); ++rank) options.push_back(point.OptionsOf(rank));
  return FormTogether(options);
}

void ClosePeers(const HostGroup& group) {
  for (const PeerSocket& peer : group.peers) close(peer.fd);
}

}  // namespace hora
