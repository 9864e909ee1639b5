#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <vector>

#include "hora/bindings/bind.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

int Add(const std::vector<int>& ranks) {
  const std::shared_ptr<Engine> engine = CurrentEngine();
  const Result<int> id = [&] {
    const py::gil_scoped_release release;
    return engine->AddProcessSet(ranks);
  }();
  if (!id) Raise(id.error());
  return *id;
}

void Remove(int id) {
  const std::shared_ptr<Engine> engine = CurrentEngine();
  const Status status = [&] {
    const py::gil_scoped_release release;
    return engine->RemoveProcessSet(id);
  }();
  RaiseIfError(status);
}

void Flush(int id) {
  const Result<std::shared_ptr<ProcessSet>> set = CurrentEngine()->Find(id);
  if (!set) Raise(set.error());
  (*set)->Flush();
}

}  // namespace

void BindProcessSets(py::module_& module) {
  module.def("add_process_set", &Add, py::arg("ranks"));
  module.def("remove_process_set", &Remove, py::arg("process_set"));
  module.def("flush", &Flush, py::arg("process_set") = 0);
  module.def("process_sets", [] { return CurrentEngine()->RanksOfSets(); });
}

}  // namespace hora::bindings
