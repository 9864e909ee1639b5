// What a process set is made of.
#pragma once

#include <functional>
#include <memory>

#include "hora/base/config.h"
#include "hora/base/status.h"
#include "hora/engine/autotune.h"
#include "hora/engine/rank_device.h"
#include "hora/engine/set_network.h"
#include "hora/observe/observer.h"
#include "hora/shm/board.h"
#include "hora/tensor/host_layout.h"
#include "hora/tensor/rank_names.h"
#include "hora/tensor/result_memory.h"
#include "hora/wire/tunables.h"

namespace hora {

// What the sets of a rank share.
struct RankResources {
  std::shared_ptr<ResultMemory> result_memory;  // null: each result in new memory
  std::shared_ptr<RankDevice> device;
};

struct ProcessSetOptions {
  int id = 0;    // 0: the global set
  int rank = 0;  // this rank's place in the set
  RankNames names;
  HostLayout layout;                    // of its ranks
  std::shared_ptr<Board> board;         // of this set alone, for its ranks on this host
  std::shared_ptr<SetNetwork> network;  // to its ranks on other hosts; may be null
  int ranks_on_host = 1;                // of the job, that share its cores
  Tunables tunables;
  Config config;
  RankResources resources;
  Observer* observer = nullptr;  // outlives the set
  Autotune* autotune = nullptr;  // the root of the global set only; outlives the set
  // Called at most once, on any thread, with the progress lock held, when the set has failed
  // closed.
  std::function<void(const Status&)> on_failure;
};

}  // namespace hora
