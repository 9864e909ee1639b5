// The collectives of TCP. Called by TcpBackend, which has checked the call and has several ranks;
// all ranks pass equal parameters and sizes, so all of them queue the same bytes in the same order.
// Each leaves the exchange finished.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/tcp/exchange.h"
#include "hora/kernels/reduce.h"

namespace hora {

// What goes through staging, or on to the next rank, at once.
inline constexpr std::size_t kTcpPieceBytes = 256u << 10;
// Up to here, over all ranks, one round trip with more bytes is faster than two with fewer.
inline constexpr std::uint64_t kTcpAtOnceBytes = 64u << 10;
// From here on a ring has fewer connections to serve than an exchange of everybody with everybody.
inline constexpr int kTcpRingRanks = 5;
// In the ring, a slice at least.
inline constexpr std::uint64_t kTcpRingSliceBytes = 64u << 10;

// Memory of one step, kept from call to call: operands of the others on their way to a sum.
class TcpStaging {
 public:
  std::span<std::byte> Of(std::size_t bytes) {
    if (memory_.size() < bytes) memory_.resize(bytes);
    return std::span(memory_).first(bytes);
  }

  std::vector<const std::byte*> sources;  // of a reduction; kept, too

 private:
  std::vector<std::byte> memory_;
};

Status TcpAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call);
Status TcpReducescatter(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call);
Status TcpAllgather(TcpExchange& exchange, CollectiveCall& call);
Status TcpAlltoall(TcpExchange& exchange, CollectiveCall& call);
Status TcpBroadcast(TcpExchange& exchange, CollectiveCall& call);

// The ways of an allreduce.
// Every rank gets all operands and reduces them, in the order of the ranks.
Status TcpGatheredAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call);
// Rank r gets slice r from everybody, reduces it in the order of the ranks and hands it out.
Status TcpSlicedAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call);
// Sums go around: slice s from rank s on, so that they are formed in another order.
Status TcpRingAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call);

}  // namespace hora
