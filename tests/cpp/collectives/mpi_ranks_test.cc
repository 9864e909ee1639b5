// MPI between processes. The tests of MpiRanks are ranks: those of MpiLaunch start them by mpirun.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <optional>

#include "collectives/plugin_ranks.h"

namespace hora {
namespace {

constexpr std::size_t kPiece = 32u << 10;
constexpr const char* kStoreVariable = "HORA_TEST_STORE";

// A file for each value, for processes that share a folder.
class FileStore final : public Store {
 public:
  explicit FileStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  Result<Meeting> Meet(int, int, const std::string&, TimePoint) override {
    return Fail(Status(StatusCode::kInternal, "no meetings here"));
  }

  Status Set(const std::string& key, const std::string& value) override {
    const auto unfinished = FileOf(key).concat("." + std::to_string(getpid()));
    std::ofstream(unfinished, std::ios::binary) << value;
    std::filesystem::rename(unfinished, FileOf(key));
    return Status::Ok();
  }

  Result<std::string> Get(const std::string& key, TimePoint deadline) override {
    while (!std::filesystem::exists(FileOf(key))) {
      if (SteadyClock::Instance().Now() > deadline) {
        return Fail(Status(StatusCode::kTimeout, "nobody set '" + key + "'"));
      }
      YieldCore();
    }
    std::ifstream file(FileOf(key), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

 private:
  std::filesystem::path FileOf(std::string key) const {
    std::ranges::replace(key, '/', '_');
    return folder_ / key;
  }

  std::filesystem::path folder_;
};

std::optional<int> IntegerOf(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? std::nullopt : std::optional(std::atoi(text));
}

// This process's rank, as the launcher numbers it.
int Rank() { return IntegerOf("OMPI_COMM_WORLD_RANK").value_or(IntegerOf("PMI_RANK").value_or(0)); }
int Size() { return IntegerOf("OMPI_COMM_WORLD_SIZE").value_or(IntegerOf("PMI_SIZE").value_or(1)); }

class OneRank final : public BackendGroup {
 public:
  OneRank(const Plugin& plugin, const std::string& name, Duration patience)
      : store_(std::getenv(kStoreVariable)),
        backend_(PluginBackend::Create(plugin, store_,
                                       {.rank = Rank(),
                                        .size = Size(),
                                        .names = {},
                                        .group = name,
                                        .bind_address = "127.0.0.1",
                                        .patience = patience,
                                        .piece_bytes = kPiece})
                     .value()) {}

  int size() const override { return Size(); }
  std::vector<int> ranks() const override { return {Rank()}; }
  PluginBackend& backend(int) override { return *backend_; }

 private:
  FileStore store_;
  std::unique_ptr<PluginBackend> backend_;
};

// MPI_THREAD_SERIALIZED, which is 2 in both families; the test is not linked with either.
void InitialiseForOneThreadAtATime() {
  using Initialise = int (*)(int*, char***, int, int*);
  int provided = -1;
  reinterpret_cast<Initialise>(dlsym(RTLD_DEFAULT, "MPI_Init_thread"))(nullptr, nullptr, 2,
                                                                       &provided);
  EXPECT_EQ(provided, 2);
}

void Finalise() { reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "MPI_Finalize"))(); }

class MpiRanks : public testing::Test {
 protected:
  void SetUp() override {
    auto plugin = OpenPlugin("mpi", PluginDirectory());
    ASSERT_TRUE(plugin) << plugin.error().ToString();
    plugin_ = *plugin;
  }

  // Two groups at once, which the ranks begin in different orders.
  void ExpectIndependentGroups() {
    OneRank first(plugin_, "first", std::chrono::seconds(30));
    OneRank second(plugin_, "second", std::chrono::seconds(30));
    const Conformance conformance{.in_rank_order = false, .edges = {kPiece}};
    std::jthread other([&] { ExpectMixedOps(Rank() % 2 == 0 ? first : second, conformance, 60); });
    ExpectMixedOps(Rank() % 2 == 0 ? second : first, conformance, 60);
  }

  // Tells MpiLaunch, which cannot rely on what launchers do with output.
  void TearDown() override { TellWhetherPassed(); }
  static void TellWhetherPassed() {
    if (HasFailure()) return;
    FileStore store(std::getenv(kStoreVariable));
    EXPECT_TRUE(store.Set("passed/" + std::to_string(Rank()), "1").ok());
  }

  Plugin plugin_;
};

TEST_F(MpiRanks, DISABLED_Conform) {
  OneRank group(plugin_, "all", std::chrono::seconds(30));
  ExpectConformance(group, {.in_rank_order = false, .edges = {kPiece}});
}

TEST_F(MpiRanks, DISABLED_HaveIndependentGroups) { ExpectIndependentGroups(); }

TEST_F(MpiRanks, DISABLED_TakeTurnsWhereOneThreadMayCallMpi) {
  InitialiseForOneThreadAtATime();
  ExpectIndependentGroups();
  Finalise();
}

TEST_F(MpiRanks, DISABLED_GiveUpOnARankThatDoesNotCome) {
  OneRank group(plugin_, "unpunctual", std::chrono::seconds(1));
  std::vector<float> values(1000);
  const ByteStream stream({std::as_writable_bytes(std::span(values))});
  CollectiveCall call =
      AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), Size(), stream, stream);
  if (Rank() == 0) group.backend(0).Abort();
  const Status status = group.backend(Rank()).Execute(call);
  EXPECT_EQ(status.code(), StatusCode::kPeerFailed);
  const char* const why = Rank() == 0 ? "aborted" : "some rank does not take part";
  EXPECT_NE(status.message().find(why), std::string::npos) << status.message();
  TellWhetherPassed();
  // Launchers kill the others when a process ends without MPI_Finalize.
  FileStore store(std::getenv(kStoreVariable));
  const auto deadline = SteadyClock::Instance().Now() + std::chrono::seconds(20);
  for (int rank = 0; rank < Size(); ++rank) {
    EXPECT_TRUE(store.Get("passed/" + std::to_string(rank), deadline));
  }
}

struct Launch {
  const char* family;
  const char* launcher;
  const char* plugin;
  int ranks;

  std::string name() const { return family + std::to_string(ranks); }
  friend void PrintTo(const Launch& launch, std::ostream* out) { *out << launch.name(); }
};

class MpiLaunch : public testing::TestWithParam<Launch> {
 protected:
  void SetUp() override {
    const Launch& launch = GetParam();
    const std::string find = std::string("command -v ") + launch.launcher + " >/dev/null";
    if (std::system(find.c_str()) != 0) GTEST_SKIP() << launch.launcher << " is missing";
    if (!std::filesystem::exists(PluginDirectory() / launch.plugin)) {
      GTEST_SKIP() << "hora was built without the headers of " << launch.family;
    }
    std::string folder = testing::TempDir() + "hora-mpi-XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }

  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Runs one test of MpiRanks; it has to pass on every rank.
  void ExpectRanksToPass(const std::string& test, bool launcher_succeeds = true) {
    const Launch& launch = GetParam();
    const auto self = std::filesystem::read_symlink("/proc/self/exe");
    const auto log = folder_ / "log";
    std::string command = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ";
    command += "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_base_warn_component_unused=0 ";
    command += kStoreVariable + ("=" + folder_.string()) + " timeout 100 " + launch.launcher;
    command += " -np " + std::to_string(launch.ranks) + " " + self.string();
    command +=
        " --gtest_color=no --gtest_also_run_disabled_tests --gtest_filter=MpiRanks.DISABLED_" +
        test;
    command += " >" + log.string() + " 2>&1";
    const int code = std::system(command.c_str());
    std::ifstream file(log);
    const std::string output(std::istreambuf_iterator<char>(file), {});
    if (launcher_succeeds) {
      EXPECT_EQ(code, 0) << command;
    }
    for (int rank = 0; rank < launch.ranks; ++rank) {
      EXPECT_TRUE(std::filesystem::exists(folder_ / ("passed_" + std::to_string(rank))))
          << "rank " << rank << " of:\n"
          << output;
    }
  }

  std::filesystem::path folder_;
};

TEST_P(MpiLaunch, Conforms) { ExpectRanksToPass("Conform"); }
TEST_P(MpiLaunch, HasIndependentGroups) { ExpectRanksToPass("HaveIndependentGroups"); }
TEST_P(MpiLaunch, TakesTurns) { ExpectRanksToPass("TakeTurnsWhereOneThreadMayCallMpi"); }
TEST_P(MpiLaunch, GivesUp) {
  // Ranks that have failed do not wait for each other in MPI_Finalize; launchers complain of that.
  ExpectRanksToPass("GiveUpOnARankThatDoesNotCome", false);
}

INSTANTIATE_TEST_SUITE_P(Families, MpiLaunch,
                         testing::Values(Launch{"OpenMpi", "mpirun.openmpi", "hora_mpi_ompi.so", 2},
                                         Launch{"OpenMpi", "mpirun.openmpi", "hora_mpi_ompi.so", 4},
                                         Launch{"Mpich", "mpirun.mpich", "hora_mpi_mpich.so", 2},
                                         Launch{"Mpich", "mpirun.mpich", "hora_mpi_mpich.so", 4}),
                         [](const auto& launch) {
                           return std::string(launch.param.family) +
                                  std::to_string(launch.param.ranks);
                         });

TEST(MpiPlugin, AsksForALauncher) {
  for (const char* plugin : {"hora_mpi_ompi.so", "hora_mpi_mpich.so"}) {
    if (!std::filesystem::exists(PluginDirectory() / plugin)) {
      GTEST_SKIP() << "hora was built without " << plugin;
    }
  }
  const auto plugin = OpenPlugin("mpi", PluginDirectory());
  ASSERT_FALSE(plugin);
  EXPECT_EQ(plugin.error().code(), StatusCode::kResource);
  EXPECT_NE(plugin.error().message().find("start with mpirun or horarun --mpi"), std::string::npos)
      << plugin.error().message();
}

}  // namespace
}  // namespace hora
