// What all ranks have agreed to do with one tensor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hora/base/rank_set.h"
#include "hora/base/status.h"
#include "hora/wire/request.h"

namespace hora {

// Carries everything that execution needs, so that the fusion plan and the backend choice are pure
// functions of it. When `error` is set, the handle of `name` gets it on every rank and nothing
// runs.
struct Response {
  std::string name;
  OpParams params;
  // allgather: for every rank in turn its rows of each tensor (rank · tensor_count + tensor).
  std::vector<std::int64_t> first_dims;
  // Ranks that have joined and did not ask for it. In an allreduce they contribute nothing; an
  // error of another kind is none of their business. What such a rank has pending under this name
  // came too late and belongs to the next response of the name.
  RankSet absent;
  Status error;

  friend bool operator==(const Response&, const Response&) = default;
};

}  // namespace hora
