// A group of processes that Gloo connects over TCP.
#pragma once

#include <gloo/rendezvous/context.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hora/collectives/gloo/reductions.h"
#include "hora/collectives/plugin/plugin_abi.h"
#include "hora/collectives/plugin/plugin_table.h"

namespace hora::gloo_plugin {

// Owns the connections, each rank with every other, and a thread of Gloo that serves them. All
// functions throw what Gloo throws, also when they took longer than the group's timeout; then the
// group is lost. One thread at a time, except Abort.
class GlooGroup {
 public:
  static plugin::Description Describe();
  // What Gloo itself reduces; see ReductionFor.
  static bool Reduces(hora_plugin_element element) noexcept;

  // Blocks until all ranks have come.
  explicit GlooGroup(const hora_plugin_group& group);
  ~GlooGroup();
  GlooGroup(const GlooGroup&) = delete;
  GlooGroup& operator=(const GlooGroup&) = delete;

  void Abort() noexcept;  // any thread

  void Allreduce(void* buffer, std::uint64_t count, hora_plugin_element element);
  void Broadcast(void* buffer, std::uint64_t bytes, int root);
  void Allgather(const void* input, void* output, const std::uint64_t* bytes_by_rank);
  void Alltoall(const void* input, const std::uint64_t* bytes_to, void* output,
                const std::uint64_t* bytes_from);

 private:
  // Both send all they have, and both reduce it: the bytes of a ring, in one phase of two.
  void AllreduceOfTwo(std::span<std::byte> buffer, hora_plugin_element element);
  std::uint32_t NextTag();
  std::size_t size() const { return static_cast<std::size_t>(context_->size); }

  const std::chrono::milliseconds timeout_;
  std::shared_ptr<gloo::rendezvous::Context> context_;
  std::vector<std::byte> incoming_;  // pieces of the other of two; kept
  std::uint32_t tag_ = 0;
  std::atomic<bool> aborted_{false};
};

}  // namespace hora::gloo_plugin
