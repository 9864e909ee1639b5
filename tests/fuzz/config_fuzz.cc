// Settings, as whoever starts a job wrote them: a line for each variable, in the order of asking.
#include <algorithm>
#include <string_view>

#include "fuzz_input.h"
#include "hora/base/config.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const auto config = Config::From([&](const char*) -> std::optional<std::string> {
    const std::string line(rest.substr(0, rest.find('\n')));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.empty()) return std::nullopt;
    return line;
  });
  if (!config) {
    fuzz::Require(config.error().code() == StatusCode::kInvalidArgument);
    fuzz::Require(config.error().message().find("HORA_") != std::string::npos);
    return 0;
  }
  fuzz::Require(config->tree_fan_out >= 1 && config->start_timeout > Duration::zero());
  fuzz::Require(config->stall_abort <= kNever && config->network.heartbeat <= kNever);
  return 0;
}
