#pragma once

#include <mpi.h>

#include <stdexcept>
#include <string>

namespace hora::mpi_plugin {

// Throws what MPI says about `code`, unless it is a success.
inline void Require(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int bytes = 0;
  MPI_Error_string(code, text, &bytes);
  throw std::runtime_error(std::string(call) + ": " + text);
}

}  // namespace hora::mpi_plugin
