// The arguments of submit, run and their like, from Python's calling convention.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string_view>

#include "hora/tensor/op_kind.h"
#include "hora/tensor/reduce_op.h"

namespace hora::bindings {

// Borrows all objects, and the name: valid while the call lasts.
struct Call {
  OpKind kind = OpKind::kAllreduce;
  std::string_view name;
  pybind11::handle input;
  pybind11::handle output;
  ReduceOp reduce_op = ReduceOp::kSum;
  int root_rank = -1;
  double prescale = 1.0;
  double postscale = 1.0;
  int process_set = 0;
  pybind11::handle splits;
  std::int32_t priority = 0;
};

// Reads submit(kind, name, input, output, reduce_op, root_rank, prescale, postscale, process_set,
// splits, priority); from reduce_op on, arguments may be left out. Raises TypeError, which names
// the argument.
Call ReadCall(PyObject* const* args, Py_ssize_t count, PyObject* keywords);

}  // namespace hora::bindings
