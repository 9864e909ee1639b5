// Which MPI this process is to use, and opening it.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "hora/base/result.h"

namespace hora {

// There are two binary interfaces of MPI.
enum class MpiFamily { kOpenMpi, kMpich };

struct MpiChoice {
  std::optional<MpiFamily> family;  // none: any
  std::filesystem::path library;    // empty: by the names that the family's libraries have
  std::string reason;               // "HORA_MPI=mpich", for errors
};

using EnvironmentLookup = std::function<std::optional<std::string>(const char* name)>;

// HORA_MPI ("openmpi", "mpich" or the path of a library) first, else the launcher that has started
// the process, which its variables tell. kInvalidArgument names the variable and what it allows.
Result<MpiChoice> ChooseMpi(const EnvironmentLookup& environment);

// Opens a library for the whole process to see: MPI's own plugins need that. One that is loaded
// already (by mpi4py, or linked) is taken whatever the launcher. Libraries of Python's environment,
// in which `directory` (hora's package) lies, come before the system's. kResource says what was
// looked for and what to install.
Result<MpiFamily> OpenMpiLibrary(const MpiChoice& choice, const std::filesystem::path& directory);

}  // namespace hora
