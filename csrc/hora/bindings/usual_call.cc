#include "hora/bindings/usual_call.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

constexpr Py_ssize_t kArguments = 10;

// Null for what is no int, or none of 32 bits.
std::optional<int> Integer(PyObject* value) {
  if (!PyLong_Check(value)) return std::nullopt;
  int overflow = 0;
  const long number = PyLong_AsLongAndOverflow(value, &overflow);
  if (overflow != 0 || number != static_cast<int>(number)) return std::nullopt;
  return static_cast<int>(number);
}

std::optional<ReduceOp> Operator(PyObject* value) {
  if (value == Py_None) return ReduceOp::kAverage;
  if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != Usual().operators.ptr()) return std::nullopt;
  const auto op = static_cast<ReduceOp>(*Integer(value));
  if (op == ReduceOp::kAdasum) return std::nullopt;  // asks more of a tensor
  return op;
}

bool IsProfiling() {
  const auto answer =
      py::reinterpret_steal<py::object>(PyObject_CallNoArgs(Usual().profiling.ptr()));
  if (!answer) throw py::error_already_set();
  return answer.ptr() != Py_False;
}

}  // namespace

UsualCalls& Usual() {
  static auto* usual = new UsualCalls();  // never destroyed: there may be no interpreter by then
  return *usual;
}

std::optional<Call> ReadUsualCall(PyObject* const* args, Py_ssize_t count) {
  if (count != kArguments) throw py::type_error("a plain operation has 10 arguments");
  const std::optional<int> kind = Integer(args[0]);
  const std::optional<ReduceOp> op = Operator(args[4]);
  const std::optional<int> root_rank = Integer(args[5]);
  const std::optional<int> priority = Integer(args[9]);
  const bool usual = kind && op && root_rank && priority && PyUnicode_Check(args[1]) &&
                     PyFloat_CheckExact(args[6]) && PyFloat_CheckExact(args[7]) &&
                     args[8] == Usual().global_set.ptr();
  if (!usual || IsProfiling()) return std::nullopt;
  Py_ssize_t size = 0;
  const char* name = PyUnicode_AsUTF8AndSize(args[1], &size);
  if (name == nullptr) {
    PyErr_Clear();  // lone surrogates
    return std::nullopt;
  }
  return Call{.kind = static_cast<OpKind>(*kind),
              .name = {name, static_cast<std::size_t>(size)},
              .input = args[2],
              .output = args[3],
              .reduce_op = *op,
              .root_rank = *root_rank,
              .prescale = PyFloat_AS_DOUBLE(args[6]),
              .postscale = PyFloat_AS_DOUBLE(args[7]),
              .process_set = 0,
              .splits = Py_None,
              .priority = *priority};
}

void MarkChanged(const Call& call) {
  if (!call.output.is(call.input)) return;
  const auto tensors = py::reinterpret_steal<py::object>(PyTuple_Pack(1, call.output.ptr()));
  if (!tensors) throw py::error_already_set();
  const auto done =
      py::reinterpret_steal<py::object>(PyObject_CallOneArg(Usual().bump.ptr(), tensors.ptr()));
  if (!done) throw py::error_already_set();
}

}  // namespace hora::bindings
