#include <fstream>
#include <map>

#include "collectives/plugin_ranks.h"
#include "hora/collectives/plugin/mpi_library.h"

namespace hora {
namespace {

using Variables = std::map<std::string, std::string>;

EnvironmentLookup Environment(Variables variables) {
  return [variables](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(ChooseMpi, TakesTheFamilyOfTheLauncher) {
  const auto family = [](Variables variables) {
    return ChooseMpi(Environment(std::move(variables))).value().family;
  };
  EXPECT_EQ(family({}), std::nullopt);
  EXPECT_EQ(family({{"OMPI_COMM_WORLD_RANK", "0"}, {"PMI_RANK", "0"}}), MpiFamily::kOpenMpi);
  EXPECT_EQ(family({{"PMIX_RANK", "0"}}), MpiFamily::kOpenMpi);
  EXPECT_EQ(family({{"PMI_RANK", "0"}}), MpiFamily::kMpich);
  EXPECT_EQ(family({{"PMI_FD", "5"}}), MpiFamily::kMpich);
  EXPECT_EQ(family({{"PMI_RANK", "0"}, {"HORA_MPI", "openmpi"}}), MpiFamily::kOpenMpi);
  EXPECT_EQ(family({{"OMPI_COMM_WORLD_RANK", "0"}, {"HORA_MPI", "mpich"}}), MpiFamily::kMpich);
}

TEST(ChooseMpi, TakesALibraryOrSaysWhatItTakes) {
  EXPECT_EQ(ChooseMpi(Environment({{"HORA_MPI", "/opt/lib/libmpi.so"}})).value().library,
            "/opt/lib/libmpi.so");
  const auto wrong = ChooseMpi(Environment({{"HORA_MPI", "lam"}}));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.error().message().find("HORA_MPI is 'lam'"), std::string::npos);
}

TEST(OpenMpiLibrary, SaysWhatTheLinkerSaid) {
  const auto opened = OpenMpiLibrary(
      {.family = {}, .library = "/nowhere/libmpi.so", .reason = "HORA_MPI=/nowhere/libmpi.so"}, "");
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), StatusCode::kResource);
  EXPECT_NE(opened.error().message().find("HORA_MPI=/nowhere/libmpi.so"), std::string::npos);
  EXPECT_NE(opened.error().message().find("No such file"), std::string::npos);
}

void ExpectRefused(const Result<Plugin>& plugin, std::string_view why) {
  ASSERT_FALSE(plugin);
  EXPECT_EQ(plugin.error().code(), StatusCode::kResource);
  EXPECT_NE(plugin.error().message().find(why), std::string::npos) << plugin.error().message();
}

TEST(OpenPlugin, SaysWhatToInstall) {
  ExpectRefused(OpenPlugin("gloo", "/nowhere"), "there is no /nowhere/hora_gloo.so");
  ExpectRefused(OpenPlugin("gloo", "/nowhere"), "apt-get install libgloo-dev");
  ExpectRefused(OpenPlugin("nccl", "/nowhere"), "there are 'gloo' and 'mpi'");
  const std::filesystem::path folder = testing::TempDir();
  std::ofstream(folder / "hora_gloo.so") << "not a library";
  ExpectRefused(OpenPlugin("gloo", folder), "file too short");
  std::filesystem::remove(folder / "hora_gloo.so");
}

}  // namespace
}  // namespace hora
