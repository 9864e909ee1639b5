#include <dlfcn.h>
#include <pybind11/stl.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "hora/bindings/bind.h"
#include "hora/bindings/bound_handle.h"
#include "hora/bindings/device_calls.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/job_key.h"
#include "hora/bindings/raise.h"
#include "hora/control/job_group.h"
#include "hora/engine/job_settings.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// Where a rank meets the others, and what it shows them.
struct Meet {
  std::string rendezvous;
  py::bytes key;
  int listen_fd = -1;
  std::string store;
  std::string job_id;
  std::vector<std::string> interfaces;
};

// Plugins are installed beside it.
std::string DirectoryOfThisModule() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&DirectoryOfThisModule), &info) == 0) return "";
  return std::filesystem::path(info.dli_fname).parent_path();
}

// One host's ranks meet at a Unix socket, those of several hosts at a store.
Result<JobGroup> Form(const Topology& topology, const Config& config, const Meet& meet) {
  const JobKey key = KeyFrom(meet.key);
  if (!meet.store.empty()) {
    JobGroupOptions options = JobGroupOptionsOf(topology, config, meet.store);
    options.credentials = {.job_id = meet.job_id, .key = key};
    options.interfaces = meet.interfaces;
    const py::gil_scoped_release release;
    return FormJobGroup(options);
  }
  const HostGroupOptions options{.rank = topology.rank,
                                 .size = topology.size,
                                 .rendezvous = meet.rendezvous,
                                 .key = key,
                                 .listen_fd = meet.listen_fd,
                                 .tunables = TunablesOf(config),
                                 .timeout = config.start_timeout};
  const py::gil_scoped_release release;
  Result<HostGroup> group = FormHostGroup(options);
  if (!group) return Fail(std::move(group.error()));
  return JobGroup::OnOneHost(std::move(*group));
}

void Init(const Topology& topology, const Meet& meet) {
  if (HasEngine()) return;
  Result<Config> config = Config::FromEnvironment();
  if (!config) Raise(config.error());
  if (config->network.plugin_directory.empty()) {
    config->network.plugin_directory = DirectoryOfThisModule();
  }
  SetLogLevel(config->log_level);
  Result<JobGroup> group = Form(topology, *config, meet);
  if (!group) Raise(group.error());
  Result<Engine::Owner> engine = Fail(Status());
  {
    const py::gil_scoped_release release;
    engine = Engine::Start(topology, *config, std::move(*group));
  }
  if (!engine) Raise(engine.error());
  if (CallsOnDevice().allocate) (*engine)->device().SetAllocator(ResultAllocator(), EmptyCache);
  InstallEngine(std::move(*engine));
}

void Shutdown() {
  std::shared_ptr<Engine> engine = RemoveEngine();
  if (engine == nullptr) return;
  {
    const py::gil_scoped_release release;  // for results on a GPU, threads of the engine take it
    // A thread that is stuck in it still uses it.
    if (!engine->Shutdown().ok()) static_cast<void>(new std::shared_ptr<Engine>(engine));
    engine.reset();
  }
  ReleaseFinishedOrphans();
}

void Abort(const std::string& message) {
  if (!HasEngine()) return;
  const std::shared_ptr<Engine> engine = CurrentEngine();
  const py::gil_scoped_release release;
  engine->Abort(Status(StatusCode::kPeerFailed, message));
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
  module.def(
      "init",
      [](const Topology& topology, std::string rendezvous, py::bytes key, int listen_fd,
         std::string store, std::string job_id, std::vector<std::string> interfaces) {
        Init(topology, {.rendezvous = std::move(rendezvous),
                        .key = std::move(key),
                        .listen_fd = listen_fd,
                        .store = std::move(store),
                        .job_id = std::move(job_id),
                        .interfaces = std::move(interfaces)});
      },
      py::arg("topology"), py::arg("rendezvous"), py::arg("key"), py::arg("listen_fd"),
      py::arg("store") = "", py::arg("job_id") = "",
      py::arg("interfaces") = std::vector<std::string>());
  module.def("shutdown", &Shutdown);
  module.def("abort", &Abort, py::arg("message"));
  module.def("is_initialized", &HasEngine);
  module.def("topology", [] { return CurrentEngine()->topology(); });
}

}  // namespace hora::bindings
