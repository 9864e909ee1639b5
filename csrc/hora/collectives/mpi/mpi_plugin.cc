// hora_mpi_ompi.so and hora_mpi_mpich.so: MPI behind the plugin interface, compiled for each of the
// two binary interfaces. Link no MPI: the loader has opened one for all to see.
#include <mpi.h>

#include <cstdio>
#include <string>

#include "hora/collectives/mpi/mpi_group.h"
#include "hora/collectives/mpi/mpi_process.h"
#include "hora/collectives/plugin/call_guard.h"

namespace hora::mpi_plugin {
namespace {

MpiGroup& GroupAt(void* group) { return *static_cast<MpiGroup*>(group); }

int Describe(char* text, std::size_t bytes, hora_plugin_error* error) {
  std::snprintf(text, bytes, "%s", MpiProcess::Version().c_str());
  const std::string why = MpiProcess::WhyNot();
  return why.empty() ? 0 : plugin::Report(why.c_str(), error);
}

int Create(const hora_plugin_group* wanted, void** group, hora_plugin_error* error) {
  return plugin::Guarded(error, [&] { *group = new MpiGroup(*wanted); });
}

void Destroy(void* group) {
  hora_plugin_error ignored;
  plugin::Guarded(&ignored, [&] { delete &GroupAt(group); });
}

void Abort(void* group) { GroupAt(group).Abort(); }

int CanReduce(hora_plugin_element element) { return Reduces(element) ? 1 : 0; }

int Allreduce(void* group, void* buffer, uint64_t count, hora_plugin_element element,
              hora_plugin_error* error) {
  return plugin::Guarded(error, [&] { GroupAt(group).Allreduce(buffer, count, element); });
}

int Broadcast(void* group, void* buffer, uint64_t bytes, int32_t root, hora_plugin_error* error) {
  return plugin::Guarded(error, [&] { GroupAt(group).Broadcast(buffer, bytes, root); });
}

int Allgather(void* group, const void* input, void* output, const uint64_t* bytes_by_rank,
              hora_plugin_error* error) {
  return plugin::Guarded(error, [&] { GroupAt(group).Allgather(input, output, bytes_by_rank); });
}

int Alltoall(void* group, const void* input, const uint64_t* bytes_to, void* output,
             const uint64_t* bytes_from, hora_plugin_error* error) {
  return plugin::Guarded(error,
                         [&] { GroupAt(group).Alltoall(input, bytes_to, output, bytes_from); });
}

}  // namespace
}  // namespace hora::mpi_plugin

extern "C" __attribute__((visibility("default"))) const hora_plugin* hora_plugin_get() {
  using namespace hora::mpi_plugin;
  static constexpr hora_plugin kPlugin = {
      .abi = HORA_PLUGIN_ABI,
      .name = "mpi",
      .describe = Describe,
      .create = Create,
      .destroy = Destroy,
      .abort = Abort,
      .reduces = CanReduce,
      .allreduce = Allreduce,
      .broadcast = Broadcast,
      .allgather = Allgather,
      .alltoall = Alltoall,
  };
  return &kPlugin;
}
