// hora_gloo.so: Gloo behind the plugin interface. Links only Gloo.
#include <gloo/config.h>

#include <cstdio>

#include "hora/collectives/gloo/gloo_group.h"
#include "hora/collectives/gloo/reductions.h"
#include "hora/collectives/plugin/call_guard.h"

namespace hora::gloo_plugin {
namespace {

GlooGroup& GroupAt(void* group) { return *static_cast<GlooGroup*>(group); }

int Describe(char* text, std::size_t bytes, hora_plugin_error*) {
  std::snprintf(text, bytes, "Gloo %d.%d.%d over TCP (not encrypted)", GLOO_VERSION_MAJOR,
                GLOO_VERSION_MINOR, GLOO_VERSION_PATCH);
  return 0;
}

int Create(const hora_plugin_group* wanted, void** group, hora_plugin_error* error) {
  return plugin::Guarded(error, [&] { *group = new GlooGroup(*wanted); });
}

void Destroy(void* group) {
  hora_plugin_error ignored;
  plugin::Guarded(&ignored, [&] { delete &GroupAt(group); });
}

void Abort(void* group) { GroupAt(group).Abort(); }

int Reduces(hora_plugin_element element) { return ReductionFor(element) != nullptr ? 1 : 0; }

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
}  // namespace hora::gloo_plugin

extern "C" __attribute__((visibility("default"))) const hora_plugin* hora_plugin_get() {
  using namespace hora::gloo_plugin;
  static constexpr hora_plugin kPlugin = {
      .abi = HORA_PLUGIN_ABI,
      .name = "gloo",
      .describe = Describe,
      .create = Create,
      .destroy = Destroy,
      .abort = Abort,
      .reduces = Reduces,
      .allreduce = Allreduce,
      .broadcast = Broadcast,
      .allgather = Allgather,
      .alltoall = Alltoall,
  };
  return &kPlugin;
}
