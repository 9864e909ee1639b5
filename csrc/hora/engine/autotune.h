// The search for the best tuning, driven by what the global set executes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "hora/autotune/tuner.h"
#include "hora/base/clock.h"
#include "hora/base/config.h"
#include "hora/wire/tunables.h"

namespace hora {

// Owns the tuner and its log file (HORA_AUTOTUNE_LOG; none when empty). Used by the root's progress
// context only. A log that cannot be written is warned about once; the search goes on.
class Autotune {
 public:
  // `ranks`: of the job, on this host.
  Autotune(const Config& config, const Tunables& tunables, int ranks);
  ~Autotune();
  Autotune(const Autotune&) = delete;
  Autotune& operator=(const Autotune&) = delete;

  // An agreement's operations, `bytes` in all, were executed from `began` to `ended`. The tuning to
  // go on with, when it is another one than before.
  std::optional<Tuning> Step(std::uint64_t bytes, TimePoint began, TimePoint ended);

 private:
  void Write(const std::string& lines);

  Tuner tuner_;
  std::string log_path_;
  int log_ = -1;
};

}  // namespace hora
