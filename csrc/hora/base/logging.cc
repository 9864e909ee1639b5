#include "hora/base/logging.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <string>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr std::array<std::string_view, 6> kNames = {"trace",   "debug", "info",
                                                    "warning", "error", "off"};

std::atomic<LogLevel> threshold{LogLevel::kWarning};

}  // namespace

std::optional<LogLevel> ParseLogLevel(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i]) return static_cast<LogLevel>(i);
  }
  return std::nullopt;
}

void SetLogLevel(LogLevel level) { threshold.store(level, std::memory_order_relaxed); }

bool LogEnabled(LogLevel level) {
  return level != LogLevel::kOff && level >= threshold.load(std::memory_order_relaxed);
}

void Log(LogLevel level, int rank, std::string_view message) {
  if (!LogEnabled(level)) return;
  const std::string_view name = kNames[static_cast<std::size_t>(level)];
  const std::string line = rank < 0 ? fmt::format("hora {}: {}\n", name, message)
                                    : fmt::format("hora[rank {}] {}: {}\n", rank, name, message);
  // A closed stderr must not end training (nor does SIGPIPE, which Python ignores).
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace hora
