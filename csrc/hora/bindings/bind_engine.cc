#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "hora/base/format.h"
#include "hora/bindings/bind.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"
#include "hora/engine/job_settings.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

JobKey KeyFrom(const py::bytes& bytes) {
  const auto text = static_cast<std::string_view>(bytes);
  JobKey key;
  if (text.size() != key.size()) {
    Raise(Error(StatusCode::kInvalidArgument, "the job key has {} bytes, not {}", text.size(),
                key.size()));
  }
  std::transform(text.begin(), text.end(), key.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  return key;
}

Result<std::shared_ptr<Engine>> StartEngine(const Topology& topology, const Config& config,
                                            const HostGroupOptions& options) {
  const py::gil_scoped_release release;
  Result<HostGroup> group = FormHostGroup(options);
  if (!group) return Fail(group.error());
  Result<std::unique_ptr<Engine>> engine = Engine::Start(topology, config, std::move(*group));
  if (!engine) return Fail(engine.error());
  return std::shared_ptr<Engine>(std::move(*engine));
}

void Init(const Topology& topology, const std::string& rendezvous, const py::bytes& key,
          int listen_fd) {
  if (HasEngine()) return;
  const Result<Config> config = Config::FromEnvironment();
  if (!config) Raise(config.error());
  SetLogLevel(config->log_level);
  const HostGroupOptions options{.rank = topology.rank,
                                 .size = topology.size,
                                 .rendezvous = rendezvous,
                                 .key = KeyFrom(key),
                                 .listen_fd = listen_fd,
                                 .tunables = TunablesOf(*config),
                                 .timeout = config->start_timeout};
  Result<std::shared_ptr<Engine>> engine = StartEngine(topology, *config, options);
  if (!engine) Raise(engine.error());
  InstallEngine(std::move(*engine));
}

void Shutdown() {
  const std::shared_ptr<Engine> engine = RemoveEngine();
  if (engine == nullptr) return;
  const py::gil_scoped_release release;
  engine->Shutdown();
}

void Abort(const std::string& message) {
  if (HasEngine()) CurrentEngine()->Abort(Status(StatusCode::kPeerFailed, message));
}

}  // namespace

void BindEngine(py::module_& module) {
  py::class_<Topology>(module, "Topology")
      .def(py::init<int, int, int, int, int, int>(), py::arg("rank"), py::arg("size"),
           py::arg("local_rank"), py::arg("local_size"), py::arg("cross_rank"),
           py::arg("cross_size"))
      .def_readonly("rank", &Topology::rank)
      .def_readonly("size", &Topology::size)
      .def_readonly("local_rank", &Topology::local_rank)
      .def_readonly("local_size", &Topology::local_size)
      .def_readonly("cross_rank", &Topology::cross_rank)
      .def_readonly("cross_size", &Topology::cross_size);
  module.def("init", &Init, py::arg("topology"), py::arg("rendezvous"), py::arg("key"),
             py::arg("listen_fd"));
  module.def("shutdown", &Shutdown);
  module.def("abort", &Abort, py::arg("message"));
  module.def("is_initialized", &HasEngine);
  module.def("topology", [] { return CurrentEngine()->topology(); });
}

}  // namespace hora::bindings
