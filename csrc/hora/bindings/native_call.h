// Functions that Python calls without pybind11 in between, which costs 0.5 µs for ten arguments.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <new>

namespace hora::bindings {

// Runs what a function of Python's C interface consists of; what it throws becomes Python's error.
template <class Body>
PyObject* Guarded(Body&& body) noexcept {
  try {
    return body();
  } catch (pybind11::error_already_set& raised) {
    raised.restore();
  } catch (const pybind11::builtin_exception& raised) {
    raised.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& failure) {
    PyErr_SetString(PyExc_RuntimeError, failure.what());
  }
  return nullptr;
}

// The type that CPython's tables want of functions with other parameters.
template <class Function>
PyCFunction AsCFunction(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace hora::bindings
