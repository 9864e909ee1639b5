#include <pthread.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hora/base/config.h"
#include "hora/base/format.h"
#include "hora/bindings/bind.h"
#include "hora/bindings/job_key.h"
#include "hora/bindings/raise.h"
#include "hora/bindings/tell_peers.h"
#include "hora/collectives/plugin/plugin_backend.h"
#include "hora/engine/job_settings.h"
#include "hora/net/network_interface.h"
#include "hora/net/socket_address.h"
#include "hora/net/store_server.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

SocketAddress AddressFrom(const std::string& text) {
  Result<SocketAddress> address = SocketAddress::Parse(text);
  if (!address) Raise(address.error());
  return *address;
}

// The store of a job; Python's owner may close it before it is collected. The child of a fork
// neither keeps its sockets open nor ends it.
class Server {
 public:
  Server(const std::string& address, std::string job_id, const py::bytes& key) {
    const Result<Config> config = Config::FromEnvironment();
    if (!config) Raise(config.error());
    auto server =
        StoreServer::Start(AddressFrom(address), {.job_id = std::move(job_id), .key = KeyFrom(key)},
                           ControlProtection(*config));
    if (!server) Raise(server.error());
    server_ = std::move(*server);
    address_ = server_->address().ToString();
    [[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, InChildOfFork);
    Living().push_back(this);
  }
  ~Server() { Close(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::string& address() const { return address_; }
  void Close() {
    std::erase(Living(), this);
    const py::gil_scoped_release release;
    server_.reset();
  }

 private:
  // Those of this process; changed with the GIL held.
  static std::vector<Server*>& Living() {
    static auto* living = new std::vector<Server*>();
    return *living;
  }

  static void InChildOfFork() {
    for (Server* server : Living()) {
      // Never destroyed: the thread that its destructor would join is the parent's.
      server->server_.release()->CloseInForkedChild();
    }
    Living().clear();
  }

  std::unique_ptr<StoreServer> server_;
  std::string address_;
};

std::string Choose(const std::vector<std::string>& wanted, const std::string& towards) {
  Result<SocketAddress> address = ChooseAddress(wanted, AddressFrom(towards));
  if (!address) Raise(address.error());
  return address->ToString();
}

py::list Interfaces() {
  Result<std::vector<NetworkInterface>> interfaces = NetworkInterfaces();
  if (!interfaces) Raise(interfaces.error());
  py::list list;
  for (const NetworkInterface& each : *interfaces) {
    list.append(
        py::make_tuple(each.name, each.address.HostToString(), each.prefix_length, each.is_up));
  }
  return list;
}

std::string DescribePlugin(const std::string& name, const std::string& directory) {
  Result<Plugin> plugin = Fail(Status());
  {
    const py::gil_scoped_release release;
    plugin = OpenPlugin(name, directory);
  }
  if (!plugin) Raise(plugin.error());
  return plugin->description;
}

}  // namespace

JobKey KeyFrom(const py::bytes& bytes) {
  const auto text = static_cast<std::string_view>(bytes);
  KeyBytes key;
  if (text.size() != key.size()) {
    Raise(Error(StatusCode::kInvalidArgument, "the job key has {} bytes, not {}", text.size(),
                key.size()));
  }
  std::transform(text.begin(), text.end(), key.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  const JobKey kept(key);
  explicit_bzero(key.data(), key.size());
  return kept;
}

void BindNetwork(py::module_& module) {
  py::class_<Server>(module, "StoreServer")
      .def(py::init<const std::string&, std::string, const py::bytes&>(), py::arg("address"),
           py::arg("job_id"), py::arg("key"))
      .def_property_readonly("address", &Server::address)
      .def("close", &Server::Close);
  module.def("settings_problem", [] {
    const Result<Config> config = Config::FromEnvironment();
    return config ? std::string() : config.error().message();
  });
  module.def(
      "tell_peers",
      [](const std::string& store, const std::string& rendezvous, const std::string& job_id,
         const py::bytes& key, int rank, const std::string& problem) {
        const MeetingPlace place{store, rendezvous, {.job_id = job_id, .key = KeyFrom(key)}};
        const py::gil_scoped_release release;
        TellPeers(place, rank, problem);
      },
      py::arg("store"), py::arg("rendezvous"), py::arg("job_id"), py::arg("key"), py::arg("rank"),
      py::arg("problem"));
  module.def("choose_address", &Choose, py::arg("wanted"), py::arg("towards"));
  module.def("network_interfaces", &Interfaces);
  module.def("describe_plugin", &DescribePlugin, py::arg("name"), py::arg("directory"));
}

}  // namespace hora::bindings
