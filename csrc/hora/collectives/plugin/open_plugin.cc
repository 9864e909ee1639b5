#include <dlfcn.h>

#include <cstdlib>

#include "hora/base/format.h"
#include "hora/collectives/plugin/mpi_library.h"
#include "hora/collectives/plugin/plugin_backend.h"

namespace hora {
namespace {

// PyTorch brings symbols of another Gloo: the plugin must find its own first. Sanitizers cannot
// intercept what is bound so.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kBindsDeep = false;
#else
constexpr bool kBindsDeep = true;
#endif

// These variables choose libraries, which are opened once in a process, so they are no settings of
// an engine.
std::optional<std::string> FromEnvironment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

struct Wanted {
  std::string file;
  int flags = RTLD_NOW | RTLD_LOCAL;
  std::string to_build;  // what to install before hora
  std::string to_run;
};

Wanted WantedGloo() {
  Wanted wanted{.file = "hora_gloo.so", .to_build = "libgloo-dev", .to_run = "libgloo0"};
  const bool refused = FromEnvironment("HORA_PLUGIN_NO_DEEPBIND").value_or("0") != "0";
  if (kBindsDeep && !refused) wanted.flags |= RTLD_DEEPBIND;
  return wanted;
}

Result<Wanted> WantedMpi(const std::filesystem::path& directory) {
  const auto choice = ChooseMpi(FromEnvironment);
  if (!choice) return Fail(choice.error());
  const auto family = OpenMpiLibrary(*choice, directory);
  if (!family) return Fail(family.error());
  if (*family == MpiFamily::kOpenMpi) {
    return Wanted{
        .file = "hora_mpi_ompi.so", .to_build = "libopenmpi-dev", .to_run = "libopenmpi3"};
  }
  return Wanted{.file = "hora_mpi_mpich.so", .to_build = "libmpich-dev", .to_run = "libmpich12"};
}

Result<Plugin> Open(const std::string& name, const Wanted& wanted,
                    const std::filesystem::path& path) {
  const auto fail = [&](std::string_view why) {
    return Fail(Error(StatusCode::kResource, "the {} plugin cannot be used: {}", name, why));
  };
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return fail(
        fmt::format("there is no {}: hora was built where {} was missing; install it "
                    "(Debian: apt-get install {}) and then hora again",
                    path.string(), name, wanted.to_build));
  }
  void* const library = dlopen(path.c_str(), wanted.flags);
  if (library == nullptr) {
    return fail(fmt::format("{} (Debian: apt-get install {})", dlerror(), wanted.to_run));
  }
  using Get = const hora_plugin* (*)();
  const auto get = reinterpret_cast<Get>(dlsym(library, "hora_plugin_get"));
  const hora_plugin* const functions = get == nullptr ? nullptr : get();
  if (functions == nullptr || functions->abi != HORA_PLUGIN_ABI) {
    return fail(fmt::format("{} is of another version of hora; install hora again", path.string()));
  }
  char text[256] = "";
  hora_plugin_error refused{};
  if (functions->describe(text, sizeof(text), &refused) != 0) {
    return fail(fmt::format("{} ({})", refused.text, text));
  }
  return Plugin{.functions = functions, .path = path, .description = text};
}

}  // namespace

Result<Plugin> OpenPlugin(const std::string& name, const std::filesystem::path& directory) {
  if (name == "gloo") {
    const Wanted wanted = WantedGloo();
    return Open(name, wanted, directory / wanted.file);
  }
  if (name == "mpi") {
    const Result<Wanted> wanted = WantedMpi(directory);
    if (!wanted) return Fail(wanted.error());
    return Open(name, *wanted, directory / wanted->file);
  }
  return Fail(
      Error(StatusCode::kResource, "there is no plugin '{}'; there are 'gloo' and 'mpi'", name));
}

}  // namespace hora
