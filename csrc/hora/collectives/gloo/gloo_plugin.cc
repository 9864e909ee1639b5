// hora_gloo.so: Gloo behind the plugin interface. Links only Gloo.
#include "hora/collectives/gloo/gloo_group.h"

extern "C" __attribute__((visibility("default"))) const hora_plugin* hora_plugin_get() {
  static constexpr auto kTable = hora::plugin::TableOf<hora::gloo_plugin::GlooGroup>("gloo");
  return &kTable;
}
