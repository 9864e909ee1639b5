// Log lines to stderr: "hora[rank 1] warning: …". Level from HORA_LOG_LEVEL (default warning).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace hora {

enum class LogLevel : std::uint8_t { kTrace, kDebug, kInfo, kWarning, kError, kOff };

std::optional<LogLevel> ParseLogLevel(std::string_view name);

// Process-wide threshold; any thread.
void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);

// One write(2) per line, so that lines of several ranks never interleave. `rank` < 0: not known
// yet.
void Log(LogLevel level, int rank, std::string_view message);

}  // namespace hora
