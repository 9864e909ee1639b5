// Element-wise reductions, in the form in which Gloo calls them.
#pragma once

#include <cstddef>

#include "hora/collectives/plugin/plugin_abi.h"

namespace hora::gloo_plugin {

// to[i] = a[i] op b[i]; `to` may be a or b.
using Reduction = void (*)(void* to, const void* a, const void* b, std::size_t count);

// Null when hora must reduce such elements: 16-bit floats (Gloo would round at every step), minima
// and maxima of floats (a NaN would get lost on some ranks), and all that is not a plain number.
Reduction ReductionFor(hora_plugin_element element);
std::size_t BytesOf(hora_plugin_element element);  // of those that have a Reduction

}  // namespace hora::gloo_plugin
