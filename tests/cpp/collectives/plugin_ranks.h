// Ranks as threads of one process, each with a PluginBackend of its own.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "collectives/backend_conformance.h"
#include "hora/collectives/plugin/plugin_backend.h"
#include "support/memory_store.h"

namespace hora {

class PluginRanks final : public BackendGroup {
 public:
  PluginRanks(const Plugin& plugin, int size, std::size_t piece_bytes,
              Duration patience = std::chrono::seconds(60))
      : statuses_(static_cast<std::size_t>(size)), backends_(static_cast<std::size_t>(size)) {
    static int groups = 0;
    const std::string name = "group" + std::to_string(groups++);
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        auto made = PluginBackend::Create(plugin, store_,
                                          {.rank = rank,
                                           .size = size,
                                           .names = {},
                                           .group = name,
                                           .bind_address = "127.0.0.1",
                                           .patience = patience,
                                           .piece_bytes = piece_bytes});
        const auto place = static_cast<std::size_t>(rank);
        if (made) backends_[place] = std::move(*made);
        if (!made) statuses_[place] = made.error();
      });
    }
    threads.clear();
    for (const Status& status : statuses_) EXPECT_TRUE(status.ok()) << status.ToString();
  }

  int size() const override { return static_cast<int>(backends_.size()); }
  PluginBackend& backend(int rank) override { return *backends_[static_cast<std::size_t>(rank)]; }
  bool complete() const {
    return std::ranges::all_of(backends_, [](const auto& backend) { return backend != nullptr; });
  }

 private:
  MemoryStore store_;
  std::vector<Status> statuses_;
  std::vector<std::unique_ptr<PluginBackend>> backends_;
};

// Where the build puts the plugins, next to the folders of the tests.
inline std::filesystem::path PluginDirectory() {
  const auto test = std::filesystem::read_symlink("/proc/self/exe");
  return test.parent_path().parent_path().parent_path() / "plugins";
}

}  // namespace hora
