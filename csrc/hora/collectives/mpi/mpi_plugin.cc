// hora_mpi_ompi.so and hora_mpi_mpich.so: MPI behind the plugin interface, compiled for each of the
// two binary interfaces. Link no MPI: the loader has opened one for all to see.
#include "hora/collectives/mpi/mpi_group.h"

extern "C" __attribute__((visibility("default"))) const hora_plugin* hora_plugin_get() {
  static constexpr auto kTable = hora::plugin::TableOf<hora::mpi_plugin::MpiGroup>("mpi");
  return &kTable;
}
