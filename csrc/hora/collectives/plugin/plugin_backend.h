// Collectives by a library that a plugin brings: Gloo, MPI.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hora/base/result.h"
#include "hora/collectives/collective_backend.h"
#include "hora/collectives/plugin/plugin_abi.h"
#include "hora/net/store.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// An opened plugin; stays open for the life of the process.
struct Plugin {
  const hora_plugin* functions = nullptr;
  std::filesystem::path path;
  std::string description;  // of the library
};

// `name` is "gloo" or "mpi"; `directory` is where the plugins lie. kResource says which file or
// library is missing, what the dynamic linker said and what to install.
Result<Plugin> OpenPlugin(const std::string& name, const std::filesystem::path& directory);

struct PluginBackendOptions {
  int rank = 0;
  int size = 1;
  RankNames names;
  std::string group;         // unique in the job
  std::string bind_address;  // of the chosen interface
  Duration patience = std::chrono::seconds(300);
  std::size_t piece_bytes = 8u << 20;  // of a step, and so of the staging; equal on all ranks
};

// Owns a group of the library. Streams that are one piece of memory are handed over as they are,
// others pass through staging buffers of a bounded size. What the library does not reduce (16-bit
// floats, fp8, averages of integers, absent ranks) is moved by it (alltoall, allgather) and
// reduced by hora's kernels, piece by piece. Threads, blocking and failure as the base says; an
// abort of the group comes from Abort.
class PluginBackend final : public CollectiveBackend {
 public:
  // Collective; blocks until all ranks of the group have come.
  static Result<std::unique_ptr<PluginBackend>> Create(const Plugin& plugin, Store& store,
                                                       const PluginBackendOptions& options);
  ~PluginBackend() override;

  std::string_view name() const override { return plugin_->name; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;

  void Abort() noexcept;  // any thread; Execute fails soon

 private:
  PluginBackend(const hora_plugin* plugin, void* group, const PluginBackendOptions& options);

  const hora_plugin* plugin_;
  void* group_;
  const PluginBackendOptions options_;
  std::vector<std::byte> input_;  // staging; kept
  std::vector<std::byte> output_;
  Status failure_;
};

}  // namespace hora
