#include <pybind11/pybind11.h>
#include <structmember.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "hora/bindings/bind.h"
#include "hora/bindings/gradient_collector.h"
#include "hora/bindings/native_call.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// What autograd calls when it has accumulated a parameter's gradient: hundreds of times in a step,
// so it is called without tuples, dictionaries or a frame.
struct GradientHook {
  PyObject_HEAD vectorcallfunc call;
  std::shared_ptr<GradientCollector> collector;
  std::size_t index;
};

PyObject* CallHook(PyObject* self, PyObject* const*, std::size_t, PyObject*) {
  auto* hook = reinterpret_cast<GradientHook*>(self);
  return Guarded([&] {
    hook->collector->OnGradient(hook->index);
    return Py_NewRef(Py_None);
  });
}

void DeleteHook(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  std::destroy_at(&reinterpret_cast<GradientHook*>(self)->collector);
  type->tp_free(self);
  Py_DECREF(type);
}

PyTypeObject* HookType() {
  static PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(GradientHook, call), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(DeleteHook)},
                                {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                                {Py_tp_members, members},
                                {0, nullptr}};
  static PyType_Spec spec = {
      "hora._core.GradientHook", sizeof(GradientHook), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  static auto* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (type == nullptr) throw py::error_already_set();
  return type;
}

py::object MakeHook(std::shared_ptr<GradientCollector> collector, std::size_t index) {
  PyTypeObject* type = HookType();
  auto* hook = reinterpret_cast<GradientHook*>(type->tp_alloc(type, 0));
  if (hook == nullptr) throw py::error_already_set();
  hook->call = CallHook;
  std::construct_at(&hook->collector, std::move(collector));
  hook->index = index;
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(hook));
}

std::shared_ptr<GradientCollector> MakeCollector(int reduce_op, double prescale, double postscale,
                                                 int process_set, int passes, py::object on_ready,
                                                 py::object on_overrun, py::object on_foreign) {
  CollectorOptions options{.process_set = process_set,
                           .passes = passes,
                           .on_ready = std::move(on_ready),
                           .on_overrun = std::move(on_overrun),
                           .on_foreign = std::move(on_foreign)};
  options.params.kind = OpKind::kAllreduce;
  options.params.reduce_op = static_cast<ReduceOp>(reduce_op);
  options.params.prescale = prescale;
  options.params.postscale = postscale;
  return std::make_shared<GradientCollector>(std::move(options));
}

}  // namespace

void BindGradients(py::module_& module) {
  using Collector = GradientCollector;
  py::class_<Collector, std::shared_ptr<Collector>>(module, "GradientCollector")
      .def(py::init(&MakeCollector), py::arg("reduce_op"), py::arg("prescale"),
           py::arg("postscale"), py::arg("process_set"), py::arg("passes"), py::arg("on_ready"),
           py::arg("on_overrun"), py::arg("on_foreign"))
      .def("add", &Collector::Add)
      .def("hook", &MakeHook)
      .def("set_key", &Collector::SetKey)
      .def("set_direct", &Collector::SetDirect)
      .def("set_view", &Collector::SetView)
      .def("set_passes", &Collector::SetPasses)
      .def("submit", &Collector::Submit)
      .def("wait", &Collector::Wait)
      .def("troubles", &Collector::Troubles)
      .def("gradients", &Collector::Gradients)
      .def("take", &Collector::Take)
      .def("is_under_way", &Collector::IsUnderWay)
      .def("passes_left", &Collector::PassesLeft)
      .def("forget", &Collector::Forget)
      .def("start_over", &Collector::StartOver)
      .def_property_readonly("has_pending", &Collector::has_pending)
      .def_readwrite("reduced", &Collector::reduced)
      .def_readwrite("early", &Collector::early)
      .def_readwrite("accumulates_only", &Collector::accumulates_only);
}

}  // namespace hora::bindings
