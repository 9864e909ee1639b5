// Ranks as threads of one process, each with a TcpBackend of its own over loopback.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "collectives/backend_conformance.h"
#include "hora/collectives/tcp/tcp_backend.h"
#include "net/connection.h"

namespace hora {

using ChannelsByRank = std::vector<std::optional<Channel>>;

// By rank: its channels to the others.
inline std::vector<ChannelsByRank> ConnectRanks(int size, Protection protection) {
  std::vector<ChannelsByRank> channels(static_cast<std::size_t>(size));
  for (auto& of_rank : channels) of_rank.resize(static_cast<std::size_t>(size));
  for (std::size_t a = 0; a < channels.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      auto ends = ConnectChannels(TcpPair(), protection);
      channels[a][b] = std::move(ends.first);
      channels[b][a] = std::move(ends.second);
    }
  }
  return channels;
}

class TcpRanks final : public BackendGroup {
 public:
  using OptionsOf = std::function<TcpBackendOptions(int rank)>;

  explicit TcpRanks(int size, Protection protection = Protection::kChecksum,
                    const OptionsOf& options_of = DefaultOptions) {
    auto channels = ConnectRanks(size, protection);
    for (int rank = 0; rank < size; ++rank) {
      TcpBackendOptions options = options_of(rank);
      options.rank = rank;
      options.wait = WaitPolicy::For(size, UsableCores());
      auto& own = channels[static_cast<std::size_t>(rank)];
      std::vector<int> fds;
      for (const auto& channel : own) fds.push_back(channel ? channel->fd() : -1);
      sockets_.push_back(std::move(fds));
      backends_.push_back(std::make_unique<TcpBackend>(std::move(own), std::move(options)));
    }
  }

  static TcpBackendOptions DefaultOptions(int /*rank*/) {
    TcpBackendOptions options;
    options.patience = std::chrono::seconds(60);
    return options;
  }

  int size() const override { return static_cast<int>(backends_.size()); }
  TcpBackend& backend(int rank) override { return *backends_[static_cast<std::size_t>(rank)]; }

  // As the end of the rank's process does.
  void CloseSocketsOf(int rank) const {
    for (const int fd : sockets_[static_cast<std::size_t>(rank)]) {
      if (fd >= 0) shutdown(fd, SHUT_RDWR);
    }
  }

 private:
  std::vector<std::vector<int>> sockets_;  // by rank, then by peer
  std::vector<std::unique_ptr<TcpBackend>> backends_;
};

}  // namespace hora
