#include "support/rank_group.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "hora/base/format.h"
#include "hora/control/job_group.h"
#include "hora/control/local_group.h"
#include "hora/engine/job_settings.h"
#include "hora/fusion/fusion_plan.h"
#include "hora/net/socket_address.h"
#include "hora/net/store_server.h"
#include "hora/tensor/host_layout.h"

namespace hora::testing {
namespace {

constexpr Duration kPatience = std::chrono::seconds(60);  // sanitizers on a busy machine

Request FloatRequest(OpKind kind, const std::string& name, std::size_t count) {
  return {.name = name,
          .params = {.kind = kind,
                     .dtype = DType::kFloat32,
                     .shape = Shape{static_cast<std::int64_t>(count)}},
          .first_dims = {}};
}

std::span<std::byte> BytesOf(std::vector<float>& values) {
  return std::as_writable_bytes(std::span(values));
}

Topology TopologyOf(int rank, const RankGroupOptions& options) {
  if (options.hosts.empty()) {
    return {.rank = rank, .size = options.size, .local_rank = rank, .local_size = options.size};
  }
  const HostLayout layout(options.hosts);
  const int host = layout.host_of(rank);
  return {.rank = rank,
          .size = layout.size(),
          .local_rank = layout.local_of(rank),
          .local_size = layout.size_of(host),
          .cross_rank = host,
          .cross_size = layout.hosts()};
}

// How each rank comes to its group.
using Former = std::function<Result<JobGroup>(const Topology& topology)>;

RankDevice::Open Opener(int rank, const RankGroupOptions& options) {
  return [options, rank]() -> Result<std::shared_ptr<DeviceRuntime>> {
    if (options.device != nullptr && !options.without_device.Contains(rank)) return options.device;
    return Fail(Error(StatusCode::kResource, "this test has no GPU"));
  };
}

void RunRank(int rank, const RankGroupOptions& options, const Former& form,
             const std::function<void(RankContext&)>& body) {
  const Topology topology = TopologyOf(rank, options);
  Result<JobGroup> group = form(topology);
  if (!group) throw std::runtime_error(group.error().ToString());
  auto engine = Engine::Start(topology, options.config, std::move(*group), Opener(rank, options));
  std::exception_ptr failure;
  try {
    if (!engine) throw std::runtime_error(engine.error().ToString());
    RankContext context(**engine, *(*engine)->Find(0));
    body(context);
  } catch (...) {
    failure = std::current_exception();
    if (engine)
      (*engine)->Abort(Error(StatusCode::kPeerFailed, "the test failed on rank {}", rank));
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

int RankContext::AddSet(const std::vector<int>& ranks) {
  const Result<int> id = engine_->AddProcessSet(ranks);
  if (!id) throw std::runtime_error(id.error().ToString());
  return *id;
}

void RankContext::RemoveSet(int id) {
  const Status status = engine_->RemoveProcessSet(id);
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

RankContext RankContext::In(int id) {
  const auto set = engine_->Find(id);
  if (!set) throw std::runtime_error(set.error().ToString());
  RankContext member(*engine_, *set);
  member.device_ = device_;
  member.ready_ = ready_;
  return member;
}

RankContext RankContext::OnDevice(EventPool::Lease ready) {
  RankContext other = *this;
  // Who has no GPU may still be asked to work on one.
  const int index = engine_->device().Chosen().value_or(0);
  other.device_ = {.type = DeviceType::kCuda, .index = static_cast<std::int16_t>(index)};
  other.ready_ = std::move(ready);
  return other;
}

std::shared_ptr<Handle> RankContext::Submit(Request request, std::span<std::byte> input,
                                            std::span<std::byte> output, bool will_wait) {
  return SubmitGroup(std::move(request), {{input, output}}, {}, will_wait);
}

std::shared_ptr<Handle> RankContext::SubmitGroup(Request request, const std::vector<Buffers>& group,
                                                 std::vector<std::int64_t> splits, bool will_wait) {
  OpParams& params = request.params;
  if (params.kind != OpKind::kBarrier && params.kind != OpKind::kJoin) params.device = device_;
  std::vector<TensorPair> pairs;
  for (std::size_t i = 0; i < group.size(); ++i) {
    Shape in = params.shape_of(i);
    if (params.kind == OpKind::kAllgather) in = in.WithFirstDim(request.first_dims[i]);
    if (params.kind == OpKind::kAlltoall) {
      in = in.WithFirstDim(
          static_cast<std::int64_t>(group[i].input.size() / SizeOf(params.dtype_of(i))));
    }
    Shape out = in;
    if (params.kind == OpKind::kReducescatter && in.rank() > 0) {
      out = in.WithFirstDim(RowsOfRank(in.dim(0), rank(), size()).count);
    }
    const auto view = [&](std::span<std::byte> bytes, Shape shape) {
      return TensorView{bytes.data(), params.dtype_of(i), params.device, std::move(shape)};
    };
    pairs.push_back({view(group[i].input, std::move(in)), view(group[i].output, std::move(out))});
  }
  auto handle = std::make_shared<Handle>(request.name);
  TensorEntry entry;
  entry.request = std::move(request);
  entry.input = pairs.front().input;
  entry.output = pairs.front().output;
  entry.rest.assign(pairs.begin() + 1, pairs.end());
  entry.splits = std::move(splits);
  entry.ready = ready_;
  entry.handle = handle;
  if (Status status = set_->Submit(std::move(entry), will_wait); !status.ok()) {
    handle = std::make_shared<Handle>(handle->name());
    handle->Complete(std::move(status));
  }
  return handle;
}

Status RankContext::Wait(const std::shared_ptr<Handle>& handle) {
  Status status = WaitForHandle(handle);
  if (status.ok()) WaitForDevice(*handle);
  return status;
}

void RankContext::WaitForDevice(const Handle& handle) {
  const EventPool::Lease& mark = handle.outcome().on_device;
  if (mark == nullptr) return;
  const TimePoint deadline = SteadyClock::Instance().Now() + kPatience;
  const Status status = engine_->device().runtime().value()->Await(*mark, deadline);
  if (!status.ok()) throw std::runtime_error(handle.name() + ": " + status.ToString());
}

Status RankContext::WaitForHandle(const std::shared_ptr<Handle>& handle) {
  const TimePoint deadline = SteadyClock::Instance().Now() + kPatience;
  while (!handle->done()) {
    if (set_->Wait(*handle, deadline) == WakeReason::kDeadline) {
      throw std::runtime_error("rank " + std::to_string(global_rank()) + " hangs in '" +
                               handle->name() + "'");
    }
  }
  return handle->status();
}

std::shared_ptr<Handle> RankContext::Allreduce(const std::string& name, std::vector<float>& values,
                                               ReduceOp op) {
  Request request = FloatRequest(OpKind::kAllreduce, name, values.size());
  request.params.reduce_op = op;
  return Submit(std::move(request), BytesOf(values), BytesOf(values));
}

std::shared_ptr<Handle> RankContext::Broadcast(const std::string& name, std::vector<float>& values,
                                               int root) {
  Request request = FloatRequest(OpKind::kBroadcast, name, values.size());
  request.params.root_rank = root;
  return Submit(std::move(request), BytesOf(values), BytesOf(values));
}

std::shared_ptr<Handle> RankContext::Allgather(const std::string& name, std::vector<float>& rows) {
  Request request = FloatRequest(OpKind::kAllgather, name, 0);
  request.first_dims = {static_cast<std::int64_t>(rows.size())};
  return Submit(std::move(request), BytesOf(rows), {});
}

std::shared_ptr<Handle> RankContext::Alltoall(const std::string& name, std::vector<float>& rows,
                                              std::vector<std::int64_t> splits) {
  return SubmitGroup(FloatRequest(OpKind::kAlltoall, name, 0), {{BytesOf(rows), {}}},
                     std::move(splits));
}

std::shared_ptr<Handle> RankContext::Reducescatter(const std::string& name,
                                                   std::vector<float>& rows,
                                                   std::vector<float>& mine, ReduceOp op) {
  Request request = FloatRequest(OpKind::kReducescatter, name, rows.size());
  request.params.reduce_op = op;
  return Submit(std::move(request), BytesOf(rows), BytesOf(mine));
}

std::shared_ptr<Handle> RankContext::GroupedAllreduce(const std::string& name,
                                                      std::vector<std::vector<float>>& tensors) {
  Request request = FloatRequest(OpKind::kAllreduce, name, tensors.front().size());
  std::vector<Buffers> group;
  for (std::vector<float>& values : tensors) {
    if (!group.empty()) {
      request.params.rest.push_back(
          {DType::kFloat32, Shape{static_cast<std::int64_t>(values.size())}});
    }
    group.push_back({BytesOf(values), BytesOf(values)});
  }
  return SubmitGroup(std::move(request), group);
}

std::shared_ptr<Handle> RankContext::Barrier(const std::string& name) {
  return Submit({.name = name, .params = {.kind = OpKind::kBarrier}, .first_dims = {}}, {}, {});
}

std::shared_ptr<Handle> RankContext::Join() {
  return Submit(
      {.name = std::string(kJoinName), .params = {.kind = OpKind::kJoin}, .first_dims = {}}, {},
      {});
}

std::vector<float> FloatsOf(const Gathered& gathered) {
  std::vector<float> floats(gathered.bytes().size() / sizeof(float));
  std::copy(gathered.bytes().begin(), gathered.bytes().end(),
            std::as_writable_bytes(std::span(floats)).begin());
  return floats;
}

void RunRanks(const RankGroupOptions& options, const std::function<void(RankContext&)>& body) {
  std::vector<HostGroup> groups;
  std::unique_ptr<StoreServer> store;
  const JobCredentials credentials{.job_id = "test"};
  if (options.hosts.empty()) {
    groups = MakeLocalGroup(options.size, TunablesOf(options.config));
  } else {
    store = StoreServer::Start(SocketAddress::Parse("127.0.0.1:0").value(), credentials,
                               ControlProtection(options.config))
                .value();
  }
  const Former form = [&](const Topology& topology) -> Result<JobGroup> {
    if (store == nullptr) {
      return JobGroup::OnOneHost(std::move(groups[static_cast<std::size_t>(topology.rank)]));
    }
    JobGroupOptions job = JobGroupOptionsOf(topology, options.config, store->address().ToString());
    job.credentials = credentials;
    return FormJobGroup(job);
  };
  std::exception_ptr first_failure;
  std::mutex failure_mutex;
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < options.size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        RunRank(rank, options, form, body);
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        if (!first_failure) first_failure = std::current_exception();
      }
    });
  }
  threads.clear();
  if (first_failure) std::rethrow_exception(first_failure);
}

}  // namespace hora::testing
