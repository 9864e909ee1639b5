// A group of a plugin's library, in hora's types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hora/base/status.h"
#include "hora/collectives/collective_backend.h"
#include "hora/collectives/plugin/plugin_abi.h"
#include "hora/tensor/dtype.h"
#include "hora/tensor/reduce_op.h"

namespace hora {

// Borrows the group. All ranks call alike. Blocks until this rank's part is done; not OK: the group
// is lost. One thread at a time.
class LibraryGroup {
 public:
  LibraryGroup(const hora_plugin* plugin, void* group, int rank, int size)
      : plugin_(plugin), group_(group), rank_(rank), size_(size) {}

  int rank() const { return rank_; }
  int size() const { return size_; }

  bool Reduces(DType dtype, ReduceOp op) const;

  // In place; aligned as the type is.
  Status Allreduce(std::span<std::byte> buffer, DType dtype, ReduceOp op);
  Status Broadcast(std::span<std::byte> buffer, int root);
  // Input and output do not overlap; parts lie one after the other, in the order of the ranks.
  Status Allgather(const std::byte* input, std::byte* output,
                   std::span<const std::uint64_t> bytes_by_rank);
  Status Alltoall(const std::byte* input, std::span<const std::uint64_t> bytes_to,
                  std::byte* output, std::span<const std::uint64_t> bytes_from);

 private:
  Status Outcome(int code, const hora_plugin_error& error, std::string_view operation) const;

  const hora_plugin* plugin_;
  void* group_;
  int rank_;
  int size_;
};

// What the steps of an operation pass through; grows to what one step needs, and is kept.
struct PluginStaging {
  std::vector<std::byte>& first;
  std::vector<std::byte>& second;
  std::size_t piece_bytes = 0;  // of a step, over all ranks
};

// The operations; `call` has been checked and has several ranks.
Status PluginAllreduce(LibraryGroup& group, PluginStaging staging, CollectiveCall& call);
Status PluginReducescatter(LibraryGroup& group, PluginStaging staging, CollectiveCall& call);
Status PluginAllgather(LibraryGroup& group, PluginStaging staging, CollectiveCall& call);
Status PluginAlltoall(LibraryGroup& group, PluginStaging staging, CollectiveCall& call);
Status PluginBroadcast(LibraryGroup& group, PluginStaging staging, CollectiveCall& call);

}  // namespace hora
