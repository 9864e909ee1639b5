#include "hora/bindings/call_arguments.h"

#include <array>
#include <string>

#include "hora/base/format.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

constexpr std::array<const char*, 11> kNames = {"kind",        "name",      "input",    "output",
                                                "reduce_op",   "root_rank", "prescale", "postscale",
                                                "process_set", "splits",    "priority"};
constexpr std::size_t kRequired = 4;

using Values = std::array<PyObject*, kNames.size()>;  // null: left out

[[noreturn]] void Refuse(const std::string& problem) { throw py::type_error(problem); }

[[noreturn]] void RefuseValue(const char* argument, const char* needed, PyObject* value) {
  PyErr_Clear();
  Refuse(
      fmt::format("{} is {}, not {}", argument, needed, static_cast<std::string>(py::repr(value))));
}

std::size_t PlaceOf(PyObject* keyword) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (PyUnicode_CompareWithASCIIString(keyword, kNames[i]) == 0) return i;
  }
  Refuse(
      fmt::format("an operation has no argument {}", static_cast<std::string>(py::str(keyword))));
}

Values Arrange(PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  Values values{};
  const auto given = static_cast<std::size_t>(count);
  if (given > kNames.size()) {
    Refuse(fmt::format("an operation has at most {} arguments, not {}", kNames.size(), given));
  }
  for (std::size_t i = 0; i < given; ++i) values[i] = args[i];
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t i = 0; i < named; ++i) {
    const std::size_t place = PlaceOf(PyTuple_GET_ITEM(keywords, i));
    if (values[place] != nullptr) Refuse(fmt::format("{} is given twice", kNames[place]));
    values[place] = args[count + i];
  }
  for (std::size_t i = 0; i < kRequired; ++i) {
    if (values[i] == nullptr) Refuse(fmt::format("{} is missing", kNames[i]));
  }
  return values;
}

// Also of a NumPy number or another with __index__; no float is one.
int Integer(std::size_t place, PyObject* value) {
  const long number = PyLong_AsLong(value);
  if (number == -1 && PyErr_Occurred() != nullptr) RefuseValue(kNames[place], "an integer", value);
  if (number != static_cast<int>(number)) RefuseValue(kNames[place], "a 32-bit integer", value);
  return static_cast<int>(number);
}

double Number(std::size_t place, PyObject* value) {
  if (PyFloat_CheckExact(value)) return PyFloat_AS_DOUBLE(value);
  const double number = PyFloat_AsDouble(value);
  if (number == -1.0 && PyErr_Occurred() != nullptr) RefuseValue(kNames[place], "a number", value);
  return number;
}

std::string_view Text(std::size_t place, PyObject* value) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, &size) : nullptr;
  if (text == nullptr) RefuseValue(kNames[place], "a string", value);
  return {text, static_cast<std::size_t>(size)};
}

}  // namespace

Call ReadCall(PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  const Values values = Arrange(args, count, keywords);
  Call call{.kind = static_cast<OpKind>(Integer(0, values[0])),
            .name = Text(1, values[1]),
            .input = values[2],
            .output = values[3]};
  if (values[4] != nullptr) call.reduce_op = static_cast<ReduceOp>(Integer(4, values[4]));
  if (values[5] != nullptr) call.root_rank = Integer(5, values[5]);
  if (values[6] != nullptr) call.prescale = Number(6, values[6]);
  if (values[7] != nullptr) call.postscale = Number(7, values[7]);
  if (values[8] != nullptr) call.process_set = Integer(8, values[8]);
  call.splits = values[9] == nullptr ? Py_None : values[9];
  if (values[10] != nullptr) call.priority = Integer(10, values[10]);
  return call;
}

}  // namespace hora::bindings
