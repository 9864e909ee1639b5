// The border between C++ exceptions inside a plugin and the C interface.
#pragma once

#include <cstddef>
#include <cstring>
#include <exception>

#include "hora/collectives/plugin/plugin_abi.h"

namespace hora::plugin {

inline int Report(const char* text, hora_plugin_error* error) {
  std::strncpy(error->text, text, sizeof(error->text) - 1);
  error->text[sizeof(error->text) - 1] = '\0';
  return 1;
}

// 0, or 1 with the text of what `call` threw.
template <class Call>
int Guarded(hora_plugin_error* error, Call&& call) noexcept {
  try {
    call();
    return 0;
  } catch (const std::exception& exception) {
    return Report(exception.what(), error);
  } catch (...) {
    return Report("an exception of an unknown type", error);
  }
}

}  // namespace hora::plugin
