// The arguments of start_usual and run_usual, the shortest way from Python to the engine.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "hora/bindings/call_arguments.h"

namespace hora::bindings {

// What hora.torch has told of itself, once: objects that live as long as the process. Guarded by
// the GIL.
struct UsualCalls {
  pybind11::object handle_class;  // of the handles that start_usual returns
  pybind11::object operators;     // the enumeration of reduction operators
  pybind11::object global_set;    // the process set of all ranks
  pybind11::object profiling;     // () -> bool: whether PyTorch's profiler runs
  pybind11::object bump;          // ((tensor,)): lets autograd know that the tensor has changed
};

UsualCalls& Usual();

// Reads (kind, name, input, output, op, root_rank, prescale, postscale, process_set, priority), all
// by place. Null when anything is not as in most calls (a name, an operator of the enumeration or
// None for the average, the set of all ranks, no profiler, …): Python knows what to do then, and
// what to say.
std::optional<Call> ReadUsualCall(PyObject* const* args, Py_ssize_t count);

// Tells autograd, when the operation wrote into its input.
void MarkChanged(const Call& call);

}  // namespace hora::bindings
