// Which ranks of a group are on which host.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace hora {

// The ranks of a group are numbered host by host: host 0 has the first, host 1 the next. A value
// type; at least one host, no host without ranks.
class HostLayout {
 public:
  HostLayout() : HostLayout({1}) {}
  explicit HostLayout(std::vector<int> sizes) : sizes_(std::move(sizes)) {}

  int hosts() const { return static_cast<int>(sizes_.size()); }
  int size() const { return std::accumulate(sizes_.begin(), sizes_.end(), 0); }
  int size_of(int host) const { return sizes_[static_cast<std::size_t>(host)]; }
  // The first rank of a host, which leads it.
  int first_of(int host) const { return std::accumulate(sizes_.begin(), sizes_.begin() + host, 0); }
  int host_of(int rank) const {
    int host = 0;
    for (; rank >= size_of(host); ++host) rank -= size_of(host);
    return host;
  }
  int local_of(int rank) const { return rank - first_of(host_of(rank)); }
  std::vector<int> ranks_of(int host) const {
    std::vector<int> ranks(static_cast<std::size_t>(size_of(host)));
    std::iota(ranks.begin(), ranks.end(), first_of(host));
    return ranks;
  }
  // Those of one local rank, by host; each host has one.
  std::vector<int> lane_of(int local) const {
    std::vector<int> lane;
    for (int host = 0; host < hosts(); ++host) lane.push_back(first_of(host) + local);
    return lane;
  }
  // Ranks that every host has: so many can move data side by side between all hosts.
  int lanes() const { return *std::min_element(sizes_.begin(), sizes_.end()); }

  friend bool operator==(const HostLayout&, const HostLayout&) = default;

 private:
  std::vector<int> sizes_;  // by host
};

}  // namespace hora
