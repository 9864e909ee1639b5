#include "hora/base/config.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace hora {
namespace {

Result<Config> ConfigOf(const std::map<std::string, std::string>& variables) {
  return Config::From([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

std::string ErrorOf(const std::map<std::string, std::string>& variables) {
  const Result<Config> config = ConfigOf(variables);
  if (config.has_value()) return "";
  EXPECT_EQ(config.error().code(), StatusCode::kInvalidArgument);
  return config.error().message();
}

TEST(Config, HasDefaults) {
  const Result<Config> config = ConfigOf({});
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->stall_warning, std::chrono::seconds(10));
  EXPECT_EQ(config->stall_abort, std::chrono::seconds(300));
  EXPECT_EQ(config->log_level, LogLevel::kWarning);
}

TEST(Config, ReadsEverySetting) {
  const Result<Config> config = ConfigOf({{"HORA_STALL_WARNING_SECONDS", "0.25"},
                                          {"HORA_STALL_ABORT_SECONDS", "2"},
                                          {"HORA_START_TIMEOUT_SECONDS", "1e1"},
                                          {"HORA_FUSION_THRESHOLD_BYTES", "0"},
                                          {"HORA_WINDOW_BYTES", "8192"},
                                          {"HORA_CACHE_CAPACITY", "7"},
                                          {"HORA_TREE_FAN_OUT", "3"},
                                          {"HORA_CHUNK_BYTES", "4096"},
                                          {"HORA_SMALL_ALLREDUCE_BYTES", "100"},
                                          {"HORA_RESULT_MEMORY_BYTES", "5"},
                                          {"HORA_JOIN_DIVIDES_BY_SIZE", "1"},
                                          {"HORA_LOG_LEVEL", "debug"}});
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_EQ(config->stall_warning, std::chrono::milliseconds(250));
  EXPECT_EQ(config->stall_abort, std::chrono::seconds(2));
  EXPECT_EQ(config->start_timeout, std::chrono::seconds(10));
  EXPECT_EQ(config->data_plane.fusion_threshold_bytes, 0u);
  EXPECT_EQ(config->data_plane.window_bytes, 8192u);
  EXPECT_EQ(config->cache_capacity, 7u);
  EXPECT_EQ(config->tree_fan_out, 3);
  EXPECT_EQ(config->data_plane.chunk_bytes, 4096u);
  EXPECT_EQ(config->data_plane.small_allreduce_bytes, 100u);
  EXPECT_EQ(config->data_plane.result_memory_bytes, 5u);
  EXPECT_TRUE(config->join_divides_by_size);
  EXPECT_EQ(config->log_level, LogLevel::kDebug);
}

TEST(Config, ReadsHowToAutotune) {
  EXPECT_FALSE(ConfigOf({})->autotune.enabled);
  const Result<Config> config = ConfigOf({{"HORA_AUTOTUNE", "1"},
                                          {"HORA_AUTOTUNE_LOG", "a.csv"},
                                          {"HORA_AUTOTUNE_WARMUP_SAMPLES", "0"},
                                          {"HORA_AUTOTUNE_STEPS_PER_SAMPLE", "2"},
                                          {"HORA_AUTOTUNE_MAX_SAMPLES", "5"}});
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_TRUE(config->autotune.enabled);
  EXPECT_EQ(config->autotune.log, "a.csv");
  EXPECT_EQ(config->autotune.warmup_samples, 0);
  EXPECT_EQ(config->autotune.steps_per_sample, 2);
  EXPECT_EQ(config->autotune.max_samples, 5);
}

TEST(Config, NamesVariableValueAndRangeOfWhatItRejects) {
  EXPECT_EQ(ErrorOf({{"HORA_TREE_FAN_OUT", "1"}}),
            "HORA_TREE_FAN_OUT='1' is not an integer between 2 and 1024");
  EXPECT_EQ(
      ErrorOf({{"HORA_STALL_ABORT_SECONDS", "soon"}}),
      "HORA_STALL_ABORT_SECONDS='soon' is not a number of seconds between 0.01 and 604800 (0: "
      "never)");
  EXPECT_EQ(ErrorOf({{"HORA_LOG_LEVEL", "loud"}}),
            "HORA_LOG_LEVEL='loud' is not one of trace, debug, info, warning, error, off");
}

TEST(Config, RejectsNumbersThatAreNone) {
  for (const char* value : {"", " 4", "4 ", "4x", "0x10", "3.5", "99999999999999999999", "-2"}) {
    EXPECT_NE(ErrorOf({{"HORA_TREE_FAN_OUT", value}}), "") << "'" << value << "'";
  }
  for (const char* value : {"nan", "inf", "-1", "0.001", "1e999"}) {
    EXPECT_NE(ErrorOf({{"HORA_STALL_WARNING_SECONDS", value}}), "") << "'" << value << "'";
  }
}

TEST(Config, StallsMayBeNoConcern) {
  const Result<Config> config =
      ConfigOf({{"HORA_STALL_WARNING_SECONDS", "0"}, {"HORA_STALL_ABORT_SECONDS", "0"}});
  ASSERT_TRUE(config);
  EXPECT_EQ(config->stall_warning, kNever);
  EXPECT_EQ(config->stall_abort, kNever);
  EXPECT_NE(ErrorOf({{"HORA_START_TIMEOUT_SECONDS", "0"}}), "");
}

TEST(Config, WindowsAreWholePages) {
  EXPECT_EQ(ErrorOf({{"HORA_WINDOW_BYTES", "5000"}}),
            "HORA_WINDOW_BYTES='5000' is not a multiple of 4096");
}

TEST(Config, ReportsTheFirstOfSeveralErrors) {
  const std::string error =
      ErrorOf({{"HORA_LOG_LEVEL", "loud"}, {"HORA_STALL_WARNING_SECONDS", "never"}});
  EXPECT_EQ(error.rfind("HORA_STALL_WARNING_SECONDS", 0), 0u) << error;
}

TEST(Config, SaysHowGpuTensorsGo) {
  EXPECT_EQ(ConfigOf({})->device.backend, "auto");
  EXPECT_EQ(ConfigOf({})->device.nccl_library, "");
  EXPECT_EQ(ConfigOf({})->device.pinned_bytes, 256u << 20);
  EXPECT_FALSE(ConfigOf({})->device.nccl_alone);
  EXPECT_TRUE(ConfigOf({{"HORA_NCCL_ALONE", "1"}})->device.nccl_alone);
  EXPECT_NE(ErrorOf({{"HORA_NCCL_ALONE", "yes"}}).find("HORA_NCCL_ALONE"), std::string::npos);
  const Result<Config> config = ConfigOf({{"HORA_GPU_BACKEND", "staged"},
                                          {"HORA_NCCL_LIBRARY", "/opt/libnccl.so.2"},
                                          {"HORA_PINNED_MEMORY_BYTES", "0"}});
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_EQ(config->device.backend, "staged");
  EXPECT_EQ(config->device.nccl_library, "/opt/libnccl.so.2");
  EXPECT_EQ(config->device.pinned_bytes, 0u);
  EXPECT_NE(ErrorOf({{"HORA_GPU_BACKEND", "cuda"}}).find("HORA_GPU_BACKEND"), std::string::npos);
}

}  // namespace
}  // namespace hora
