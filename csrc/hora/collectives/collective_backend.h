// The data plane's seam: who moves and reduces the bytes of an agreed batch.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "hora/base/status.h"
#include "hora/tensor/byte_stream.h"
#include "hora/wire/request.h"

namespace hora {

// One fused batch. `params` (its shape is ignored) and `bytes_per_rank` are equal on all ranks; the
// streams are this rank's own memory. Sizes are 64-bit everywhere.
struct CollectiveCall {
  OpParams params;
  int size = 1;  // ranks that take part
  // allgather: what each rank contributes. Otherwise one entry.
  std::vector<std::uint64_t> bytes_per_rank;
  // What this rank contributes. broadcast: used at the root only.
  ByteStream input;
  // allgather: one stream per source rank. Otherwise one. An output may be the very memory of the
  // input (in place), but not overlap it otherwise.
  std::vector<ByteStream> outputs;
};

class CollectiveBackend {
 public:
  virtual ~CollectiveBackend() = default;
  virtual std::string_view name() const = 0;
  virtual bool Supports(const OpParams& params) const = 0;

  // Every rank calls it with the same batches in the same order. Blocks until this rank's part is
  // done and its memory may be reused. Not OK: the group is lost (the data plane is out of step);
  // the message names the ranks that were waited for. One thread at a time.
  virtual Status Execute(CollectiveCall& call) = 0;
};

}  // namespace hora
