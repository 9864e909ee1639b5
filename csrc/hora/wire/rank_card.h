// How a rank introduces itself to the ranks of other hosts.
#pragma once

#include <string>
#include <string_view>

#include "hora/base/result.h"
#include "hora/wire/tunables.h"

namespace hora {

struct RankCard {
  std::string version;  // of hora; all the same
  int local_rank = 0;   // on its host
  int local_size = 1;
  std::string host;        // its name, for people
  std::string address;     // "ip:port" of its listener
  std::string rendezvous;  // of its host's ranks, from the first of them (an abstract Unix socket)
  std::string engine;      // what moves data across hosts; all the same
  std::string data_plane;  // how it is protected on its way, or asked to be; all the same
  Tunables tunables;       // rank 0's count

  friend bool operator==(const RankCard&, const RankCard&) = default;
};

std::string Encode(const RankCard& card);
// Any bytes give a card, whose rank is one of its host, or kInternal.
Result<RankCard> DecodeRankCard(std::string_view bytes);

}  // namespace hora
