// What every collective backend must do, whatever it moves the bytes with: each operation against a
// reduction of whole tensors, in every type, at sizes around what the backend cuts at.
#pragma once

#include <cstddef>
#include <functional>
#include <numeric>
#include <vector>

#include "collectives/operands.h"
#include "hora/collectives/collective_backend.h"

namespace hora {

// The ranks of one group, of which this process has some or all. Checks may follow each other on
// one group, so that the backends must stay in step.
class BackendGroup {
 public:
  using Body = std::function<Status(int rank, CollectiveBackend& backend)>;

  virtual ~BackendGroup() = default;
  virtual int size() const = 0;
  virtual CollectiveBackend& backend(int rank) = 0;
  virtual std::vector<int> ranks() const {  // of this process
    std::vector<int> all(static_cast<std::size_t>(size()));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  // A thread per rank of this process; their statuses in the order of ranks().
  std::vector<Status> Run(const Body& body);
  void RunOk(const Body& body);
  void Retune(const Tuning& tuning);  // on every rank of this process
};

struct Conformance {
  // Sums have the bits of one reduction in the order of the ranks. Otherwise floating-point sums
  // and products may differ by rounding, but not between ranks; all else is exact all the same.
  bool in_rank_order = true;
  // False: reductions that the backend says it does not support are left out.
  bool every_reduction = true;
  // Where sizes are interesting, in bytes: what the backend cuts at, or changes its algorithm at.
  std::vector<std::size_t> edges = {4096};
};

// Each runs on all ranks of the group and reports by EXPECT what went wrong.
void ExpectAllreduces(BackendGroup& group, const Conformance& conformance);  // sizes and layouts
void ExpectEveryReduction(BackendGroup& group,
                          const Conformance& conformance);  // types, ops, scales
void ExpectAbsences(BackendGroup& group, const Conformance& conformance);
void ExpectReducescatters(BackendGroup& group, const Conformance& conformance);
void ExpectAllgathers(BackendGroup& group, const Conformance& conformance);
void ExpectBroadcasts(BackendGroup& group, const Conformance& conformance);
void ExpectAlltoalls(BackendGroup& group, const Conformance& conformance);
void ExpectAdasum(BackendGroup& group, const Conformance& conformance);
// All kinds in turn, chosen by a seed that the ranks share, with delays that they do not.
void ExpectMixedOps(BackendGroup& group, const Conformance& conformance, int operations);

// All of the above.
void ExpectConformance(BackendGroup& group, const Conformance& conformance);

}  // namespace hora
