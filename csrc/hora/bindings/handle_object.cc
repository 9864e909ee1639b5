#include "hora/bindings/handle_object.h"

#include <pybind11/stl.h>
#include <structmember.h>

#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "hora/base/format.h"
#include "hora/bindings/native_call.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

struct HandleObject {
  PyObject_HEAD PyObject* weak_references;
  PyObject* result;
  BoundHandle bound;
};

PyTypeObject* handle_type = nullptr;  // made once, lives as long as the process

HandleObject& Of(PyObject* self) { return *reinterpret_cast<HandleObject*>(self); }

void Destroy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  HandleObject& object = Of(self);
  if (object.weak_references != nullptr) PyObject_ClearWeakRefs(self);
  Py_XDECREF(object.result);
  std::destroy_at(&object.bound);
  type->tp_free(self);
  Py_DECREF(type);
}

// Handle(other, result): the same operation, with another result.
PyObject* New(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  return Guarded([&]() -> PyObject* {
    PyObject* other = nullptr;
    PyObject* result = Py_None;
    if (kwargs != nullptr && PyDict_Size(kwargs) != 0) {
      throw py::type_error("a handle takes no keywords");
    }
    if (!PyArg_UnpackTuple(args, "Handle", 1, 2, &other, &result)) throw py::error_already_set();
    if (!PyObject_TypeCheck(other, handle_type)) {
      throw py::type_error("a handle is made by submitting an operation, or of another handle");
    }
    return MakeHandle(type, BoundHandle(Of(other).bound),
                      py::reinterpret_borrow<py::object>(result))
        .release()
        .ptr();
  });
}

std::optional<double> Patience(PyObject* timeout) {
  if (timeout == nullptr || timeout == Py_None) return std::nullopt;
  const double seconds = PyFloat_AsDouble(timeout);
  if (PyErr_Occurred() != nullptr) PyErr_Clear();  // and it is -1
  if (seconds >= 0) return seconds;
  Raise(Error(StatusCode::kInvalidArgument,
              "timeout={} is not a number of seconds, 0 or more (None waits until done)",
              static_cast<std::string>(py::repr(timeout))));
}

// The only argument, by place or by name; null when there is none.
PyObject* Timeout(PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  if (count + named > 1) throw py::type_error("wait() takes at most one argument, timeout");
  if (named == 1 &&
      PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, 0), "timeout") != 0) {
    throw py::type_error("wait() takes no argument but timeout");
  }
  return count + named == 1 ? args[0] : nullptr;
}

PyObject* Wait(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  return Guarded([&] {
    Of(self).bound.Wait(Patience(Timeout(args, count, keywords)));
    return Py_NewRef(Of(self).result);
  });
}

PyObject* Call(PyObject* self, PyObject* args, PyObject* kwargs) {
  if (PyTuple_GET_SIZE(args) != 0 || (kwargs != nullptr && PyDict_Size(kwargs) != 0)) {
    PyErr_SetString(PyExc_TypeError, "a handle is called without arguments");
    return nullptr;
  }
  return PyObject_CallMethod(self, "wait", nullptr);  // that of a derived class
}

PyObject* Done(PyObject* self, PyObject*) { return PyBool_FromLong(Of(self).bound.IsDone()); }

PyObject* Completed(PyObject* self, PyObject*) {
  return PyBool_FromLong(Of(self).bound.handle().done());
}

PyObject* Name(PyObject* self, void*) {
  const std::string& name = Of(self).bound.handle().name();
  return PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size()));
}

PyObject* GatheredOf(PyObject* self, PyObject*) {
  return Guarded([&] {
    const Handle& handle = Of(self).bound.handle();
    if (!handle.done() || handle.gathered().empty()) {
      Raise(Error(StatusCode::kInvalidArgument, "'{}' is not a finished allgather or alltoall",
                  handle.name()));
    }
    return py::cast(handle.gathered()).release().ptr();
  });
}

PyObject* LastJoined(PyObject* self, PyObject*) {
  return Guarded([&] {
    const Handle& handle = Of(self).bound.handle();
    if (!handle.done() || handle.last_joined() < 0) {
      Raise(Error(StatusCode::kInvalidArgument, "'{}' is not a finished join", handle.name()));
    }
    return PyLong_FromLong(handle.last_joined());
  });
}

}  // namespace

void AddHandleType(py::module_& module) {
  static PyMethodDef methods[] = {
      {"wait", AsCFunction(Wait), METH_FASTCALL | METH_KEYWORDS,
       "Blocks until done; returns the result, or raises the operation's error."},
      {"done", Done, METH_NOARGS, "Whether wait() would return, or raise, with all work done."},
      {"poll", Done, METH_NOARGS, "The same as done()."},
      {"completed", Completed, METH_NOARGS, "Whether wait() would not block."},
      {"gathered", GatheredOf, METH_NOARGS, "What a finished allgather or alltoall brought."},
      {"last_joined", LastJoined, METH_NOARGS, "The rank that joined last, of a finished join."},
      {}};
  static PyGetSetDef properties[] = {
      {"name", Name, nullptr, "The name under which ranks meet for this operation.", nullptr}, {}};
  static PyMemberDef members[] = {{"__weaklistoffset__", T_PYSSIZET,
                                   offsetof(HandleObject, weak_references), READONLY, nullptr},
                                  {}};
  static PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(New)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(Destroy)},
                                {Py_tp_call, reinterpret_cast<void*>(Call)},
                                {Py_tp_methods, methods},
                                {Py_tp_getset, properties},
                                {Py_tp_members, members},
                                {0, nullptr}};
  static PyType_Spec spec{.name = "hora._core.Handle",
                          .basicsize = sizeof(HandleObject),
                          .itemsize = 0,
                          .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                          .slots = slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  handle_type = reinterpret_cast<PyTypeObject*>(type);
  module.add_object("Handle", type);
}

py::object MakeHandle(PyTypeObject* type, BoundHandle&& bound, py::object result) {
  if (type == nullptr) type = handle_type;
  if (type != handle_type && !PyType_IsSubtype(type, handle_type)) {
    throw py::type_error("the class of a handle is derived from _core.Handle");
  }
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) throw py::error_already_set();
  // The garbage collector sees nothing of what a handle refers to, so it need not look at handles,
  // of which there are hundreds in a backward pass; a derived class with members is another matter.
  if (PyType_IS_GC(type) && type->tp_basicsize == handle_type->tp_basicsize) {
    PyObject_GC_UnTrack(self);
  }
  HandleObject& object = Of(self);
  object.result = result.release().ptr();
  std::construct_at(&object.bound, std::move(bound));
  return py::reinterpret_steal<py::object>(self);
}

}  // namespace hora::bindings
