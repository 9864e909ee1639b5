#include "support/rank_group.h"

#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "hora/base/format.h"
#include "hora/control/local_group.h"

namespace hora::testing {
namespace {

constexpr Duration kPatience = std::chrono::seconds(60);  // sanitizers on a busy machine

Tunables TunablesOf(const Config& config) {
  return {.fusion_threshold_bytes = config.fusion_threshold_bytes,
          .window_bytes = config.window_bytes,
          .cache_capacity = config.cache_capacity,
          .tree_fan_out = config.tree_fan_out};
}

OpParams FloatParams(OpKind kind, std::int64_t count) {
  return {.kind = kind, .dtype = DType::kFloat32, .shape = Shape{count}};
}

std::span<std::byte> BytesOf(std::vector<float>& values) {
  return std::as_writable_bytes(std::span(values));
}

void RunRank(int rank, const RankGroupOptions& options, HostGroup group,
             const std::function<void(RankContext&)>& body) {
  const Topology topology{
      .rank = rank, .size = options.size, .local_rank = rank, .local_size = options.size};
  auto engine = Engine::Start(topology, options.config, std::move(group));
  std::exception_ptr failure;
  try {
    if (!engine) throw std::runtime_error(engine.error().ToString());
    RankContext context(rank, options.size, **engine);
    body(context);
  } catch (...) {
    failure = std::current_exception();
    if (engine)
      (*engine)->Abort(Error(StatusCode::kPeerFailed, "the test failed on rank {}", rank));
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

std::shared_ptr<Handle> RankContext::Submit(Request request, std::span<std::byte> input,
                                            std::span<std::byte> output, bool will_wait) {
  auto handle = std::make_shared<Handle>(request.name);
  TensorEntry entry{.request = std::move(request), .input = {}, .output = {}, .handle = handle};
  const OpParams& params = entry.request.params;
  Shape shape = params.shape;
  if (params.kind == OpKind::kAllgather) shape = shape.WithFirstDim(entry.request.first_dim);
  entry.input = {
      .data = input.data(), .dtype = params.dtype, .device = params.device, .shape = shape};
  entry.output = {
      .data = output.data(), .dtype = params.dtype, .device = params.device, .shape = shape};
  if (Status status = engine_.Submit(std::move(entry), will_wait); !status.ok()) {
    handle = std::make_shared<Handle>(handle->name());
    handle->Complete(std::move(status));
  }
  return handle;
}

Status RankContext::Wait(const std::shared_ptr<Handle>& handle) {
  const TimePoint deadline = SteadyClock::Instance().Now() + kPatience;
  while (!handle->done()) {
    if (engine_.Wait(*handle, deadline) == WakeReason::kDeadline) {
      throw std::runtime_error("rank " + std::to_string(rank_) + " hangs in '" + handle->name() +
                               "'");
    }
  }
  return handle->status();
}

std::shared_ptr<Handle> RankContext::Allreduce(const std::string& name, std::vector<float>& values,
                                               ReduceOp op) {
  Request request{
      .name = name,
      .params = FloatParams(OpKind::kAllreduce, static_cast<std::int64_t>(values.size())),
      .first_dim = 0};
  request.params.reduce_op = op;
  return Submit(std::move(request), BytesOf(values), BytesOf(values));
}

std::shared_ptr<Handle> RankContext::Broadcast(const std::string& name, std::vector<float>& values,
                                               int root) {
  Request request{
      .name = name,
      .params = FloatParams(OpKind::kBroadcast, static_cast<std::int64_t>(values.size())),
      .first_dim = 0};
  request.params.root_rank = root;
  return Submit(std::move(request), BytesOf(values), BytesOf(values));
}

std::shared_ptr<Handle> RankContext::Allgather(const std::string& name, std::vector<float>& rows) {
  return Submit({.name = name,
                 .params = FloatParams(OpKind::kAllgather, 0),
                 .first_dim = static_cast<std::int64_t>(rows.size())},
                BytesOf(rows), {});
}

std::shared_ptr<Handle> RankContext::Barrier(const std::string& name) {
  return Submit({.name = name, .params = {.kind = OpKind::kBarrier}, .first_dim = 0}, {}, {});
}

void RunRanks(const RankGroupOptions& options, const std::function<void(RankContext&)>& body) {
  std::vector<HostGroup> groups = MakeLocalGroup(options.size, TunablesOf(options.config));
  std::exception_ptr first_failure;
  std::mutex failure_mutex;
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < options.size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        RunRank(rank, options, std::move(groups[static_cast<std::size_t>(rank)]), body);
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
