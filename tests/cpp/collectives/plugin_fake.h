// A plugin for threads of one process: every operation is a meeting at which all ranks copy from
// each other's memory.
#pragma once

#include <atomic>

#include "hora/collectives/plugin/plugin_abi.h"

namespace hora {

// What the fake does besides its duty, for the tests that set it. Between two tests only.
struct PluginFakeBehaviour {
  bool reduces = true;           // integers, and sums and products of floats
  std::atomic<int> fails_at{0};  // 1: the next call of any rank fails
  std::atomic<int> allreduces{0};
  std::atomic<int> moves{0};              // allgathers and alltoalls
  std::atomic<std::uint64_t> largest{0};  // bytes of a buffer, of any call
};
PluginFakeBehaviour& FakeBehaviour();

const hora_plugin* FakePlugin();

}  // namespace hora
