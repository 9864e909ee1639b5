// How messages to people name operations and ranks: always the same way, never too long.
#pragma once

#include <string>
#include <string_view>

#include "hora/base/rank_set.h"
#include "hora/tensor/op_kind.h"
#include "hora/tensor/rank_names.h"

namespace hora {

std::string Shortened(std::string_view text, std::size_t max_bytes);  // ends in "…" when cut
std::string Quoted(std::string_view name);                            // 'grad.w'
std::string OpText(OpKind kind, std::string_view name);               // allreduce 'grad.w'
std::string RanksText(const RankSet& ranks);                          // rank 1; ranks 0, 2-3

// Of places in a process set; those that it does not have, as a broken peer may send, stay numbers.
std::string RanksText(const RankSet& places, const RankNames& names);
int RankName(int place, const RankNames& names);

}  // namespace hora
