// From what everybody asks for to what everybody does: pure functions.
#pragma once

#include "hora/tensor/rank_names.h"
#include "hora/wire/request.h"
#include "hora/wire/response.h"

namespace hora {

// Not OK (kInvalidArgument): no rank may ask for this, whatever the others do. Checked where it is
// submitted, so that nothing that a user passes can break the control plane.
Status CheckRequest(const Request& request);

// What `size` ranks, which have all asked for `request.name`, do: the operation when they agree and
// it is possible, else an error that says which ranks want what. Deterministic, of bounded length.
Response Decide(SubtreeRequest request, int size, const RankNames& names);

// "allreduce 'grad.w': ranks disagree on shape: ranks 0, 2-3: [2, 3]; rank 1: [3, 2]. Submit the
// same shape on every rank." Names every aspect in which the variants differ.
std::string MismatchText(const SubtreeRequest& request, const RankNames& names);

}  // namespace hora
