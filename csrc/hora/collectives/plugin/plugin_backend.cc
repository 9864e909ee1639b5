#include "hora/collectives/plugin/plugin_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hora/base/format.h"
#include "hora/collectives/alone.h"
#include "hora/collectives/check_call.h"
#include "hora/collectives/plugin/library_group.h"

namespace hora {
namespace {

// What the callbacks of hora_plugin_group work on while a group is created.
struct Introductions {
  Store& store;
  const std::string prefix;
  const TimePoint deadline;
};

int Report(const Status& status, hora_plugin_error* error) {
  const std::size_t bytes = std::min(status.message().size(), sizeof(error->text) - 1);
  std::memcpy(error->text, status.message().data(), bytes);
  error->text[bytes] = '\0';
  return 1;
}

int SetInStore(void* store, const char* key, const void* value, std::size_t bytes,
               hora_plugin_error* error) {
  const auto& meeting = *static_cast<Introductions*>(store);
  const Status status =
      meeting.store.Set(meeting.prefix + key, std::string(static_cast<const char*>(value), bytes));
  return status.ok() ? 0 : Report(status, error);
}

int GetFromStore(void* store, const char* key, void* value, std::size_t* bytes,
                 hora_plugin_error* error) {
  const auto& meeting = *static_cast<Introductions*>(store);
  const Result<std::string> found = meeting.store.Get(meeting.prefix + key, meeting.deadline);
  if (!found) return Report(found.error(), error);
  if (found->size() > *bytes) {
    return Report(Error(StatusCode::kInternal, "'{}' has {} bytes, and there is room for {}", key,
                        found->size(), *bytes),
                  error);
  }
  std::memcpy(value, found->data(), found->size());
  *bytes = found->size();
  return 0;
}

Status Run(LibraryGroup group, PluginStaging staging, CollectiveCall& call) {
  switch (call.params.kind) {
    case OpKind::kAllreduce:
      return PluginAllreduce(group, staging, call);
    case OpKind::kReducescatter:
      return PluginReducescatter(group, staging, call);
    case OpKind::kAllgather:
      return PluginAllgather(group, staging, call);
    case OpKind::kAlltoall:
      return PluginAlltoall(group, staging, call);
    case OpKind::kBroadcast:
      return PluginBroadcast(group, staging, call);
    case OpKind::kBarrier:
    case OpKind::kJoin:
      return Status::Ok();  // to have agreed on it is all there is
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<PluginBackend>> PluginBackend::Create(const Plugin& plugin, Store& store,
                                                             const PluginBackendOptions& options) {
  void* group = nullptr;
  if (options.size > 1) {
    std::vector<std::int32_t> global_ranks;
    for (int rank = 0; rank < options.size; ++rank) global_ranks.push_back(options.names.Of(rank));
    Introductions meeting{store, fmt::format("{}/{}/", plugin.functions->name, options.group),
                          SteadyClock::Instance().Now() + options.patience};
    const hora_plugin_group wanted{
        .rank = options.rank,
        .size = options.size,
        .global_ranks = global_ranks.data(),
        .name = options.group.c_str(),
        .bind_address = options.bind_address.c_str(),
        .secret_directory = "",
        .timeout_ms = std::max<std::int64_t>(
            std::chrono::duration_cast<std::chrono::milliseconds>(options.patience).count(), 1),
        .store = &meeting,
        .set = SetInStore,
        .get = GetFromStore};
    hora_plugin_error error{};
    if (plugin.functions->create(&wanted, &group, &error) != 0) {
      return Fail(Error(StatusCode::kPeerFailed,
                        "{}: rank {} cannot join group '{}' of {} ranks at {}: {}",
                        plugin.functions->name, options.names.Of(options.rank), options.group,
                        options.size, options.bind_address, error.text));
    }
  }
  return std::unique_ptr<PluginBackend>(new PluginBackend(plugin.functions, group, options));
}

PluginBackend::PluginBackend(const hora_plugin* plugin, void* group,
                             const PluginBackendOptions& options)
    : plugin_(plugin), group_(group), options_(options) {}

PluginBackend::~PluginBackend() {
  if (group_ != nullptr) plugin_->destroy(group_);
}

bool PluginBackend::Supports(const OpParams& params) const { return CpuCan(params); }

void PluginBackend::Retune(const Tuning&) {}  // the library has its own

Status PluginBackend::Execute(CollectiveCall& call) {
  if (!failure_.ok()) return failure_;
  CheckCall(call, options_.rank, options_.size);
  if (options_.size == 1) {
    RunAlone(call);
    return Status::Ok();
  }
  const std::size_t piece_bytes = std::max<std::size_t>(options_.piece_bytes / 64 * 64, 64);
  const Status status = Run(LibraryGroup(plugin_, group_, options_.rank, options_.size),
                            {input_, output_, piece_bytes}, call);
  if (!status.ok()) {
    failure_ = Error(status.code(), "rank {} in group '{}': {}", options_.names.Of(options_.rank),
                     options_.group, status.message());
  }
  return failure_;
}

void PluginBackend::Abort() noexcept {
  if (group_ != nullptr) plugin_->abort(group_);
}

}  // namespace hora
