// The job's key as Python has it.
#pragma once

#include <pybind11/pybind11.h>

#include "hora/net/job_key.h"

namespace hora::bindings {

// Raises unless it has the right length.
JobKey KeyFrom(const pybind11::bytes& bytes);

}  // namespace hora::bindings
