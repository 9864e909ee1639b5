#pragma once

namespace hora {

// Where this rank stands. "local" is among the ranks of its host, "cross" among the ranks of the
// same local rank on all hosts.
struct Topology {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  int cross_rank = 0;
  int cross_size = 1;
};

}  // namespace hora
