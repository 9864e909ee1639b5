#include "hora/control/liveness.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <exception>
#include <system_error>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr char kGoodbye = 'B';
constexpr int kLongestSleepMs = 1000;

}  // namespace

Liveness::Liveness(int rank, std::vector<PeerSocket> peers, std::shared_ptr<Board> board)
    : rank_(rank), peers_(std::move(peers)), board_(std::move(board)) {
  if (!peers_.empty()) Start();
}

void Liveness::Start() {
  // Without it (no descriptor left) stopping takes as long as the longest sleep, no more.
  stop_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  // Signals belong to the threads of the program, which may be waiting to be interrupted by one.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::jthread([this](const std::stop_token& stop) { Watch(stop); });
    pthread_setname_np(thread_.native_handle(), "hora-liveness");
  } catch (const std::exception& failure) {
    board_->Abort(rank_, Error(StatusCode::kResource,
                               "rank {} cannot start the thread that watches its peers: {}", rank_,
                               failure.what()));
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Liveness::~Liveness() {
  thread_.request_stop();
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_fd_, &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
  CloseInForkedChild();  // the same descriptors
}

void Liveness::SayGoodbye() {
  for (const PeerSocket& peer : peers_) {
    send(peer.fd, &kGoodbye, sizeof(kGoodbye), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
}

void Liveness::CloseInForkedChild() noexcept {
  for (const PeerSocket& peer : peers_) close(peer.fd);
  if (stop_fd_ >= 0) close(stop_fd_);
}

void Liveness::Watch(const std::stop_token& stop) try {
  std::vector<pollfd> watched;
  for (const PeerSocket& peer : peers_) watched.push_back({peer.fd, POLLIN | POLLRDHUP, 0});
  watched.push_back({stop_fd_, POLLIN, 0});
  while (!stop.stop_requested()) {
    const int events = poll(watched.data(), watched.size(), kLongestSleepMs);
    if (events < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "poll");
    }
    if (events <= 0) continue;
    for (std::size_t i = 0; i < peers_.size(); ++i) {
      // poll ignores negative descriptors.
      if (watched[i].revents != 0 && !StillThere(peers_[i])) watched[i].fd = -1;
    }
  }
} catch (const std::exception& failure) {
  board_->Abort(rank_, Error(StatusCode::kResource, "rank {} cannot watch its peers: {}", rank_,
                             failure.what()));
}

// Reads what the peer says; false when there is nothing more to watch. After an abort this end may
// only be a consequence, which the board knows: the first cause stays.
bool Liveness::StillThere(const PeerSocket& peer) {
  char said = 0;
  const ssize_t got = recv(peer.fd, &said, sizeof(said), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (got == 1 && said == kGoodbye) return false;
  if (got == 1) {
    board_->Abort(peer.rank,
                  Error(StatusCode::kInternal,
                        "rank {} (pid {}) sent byte {:#04x} where only a goodbye is allowed",
                        peer.rank, peer.pid, static_cast<unsigned char>(said)));
    return false;
  }
  board_->Abort(peer.rank,
                Error(StatusCode::kPeerFailed,
                      "rank {} (pid {}) died: its connection ended without a goodbye; see "
                      "its output for the reason",
                      peer.rank, peer.pid));
  return false;
}

}  // namespace hora
