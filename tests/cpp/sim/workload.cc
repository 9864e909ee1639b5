#include "sim/workload.h"

#include <array>
#include <charconv>

#include "sim/random.h"

namespace hora::sim {
namespace {

enum Purpose : std::uint64_t { kChange = 1, kDisagree, kDissenter, kOtherKind, kRows };

bool OneIn(int chances, std::uint64_t random) {
  return chances > 0 && random % static_cast<std::uint64_t>(chances) == 0;
}

// The kinds of the names 0, 1, …; every join world needs allreduces.
constexpr std::array kKinds = {OpKind::kAllreduce, OpKind::kAllgather,    OpKind::kBroadcast,
                               OpKind::kAllreduce, OpKind::kBarrier,      OpKind::kAlltoall,
                               OpKind::kAllreduce, OpKind::kReducescatter};

Request Make(OpKind kind, int version, int more_tensors) {
  constexpr std::array kOps = {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kAdasum,
                               ReduceOp::kMax};
  Request request{.params = {.kind = kind}};
  OpParams& params = request.params;
  TensorSpec further{.dtype = DType::kFloat64, .shape = {version % 4 + 1}};
  switch (kind) {
    case OpKind::kAllreduce:
      params.shape = {version % 3 + 1, 4};
      params.reduce_op = kOps[static_cast<std::size_t>(version) % kOps.size()];
      params.prescale = 1.0 + version;
      break;
    case OpKind::kAllgather:
      params.shape = {0, version + 1};
      further.shape = {0};
      break;
    case OpKind::kBroadcast:
      params.shape = {version + 1};
      params.root_rank = version % 2;
      more_tensors = 0;
      break;
    case OpKind::kAlltoall:
      params.shape = {0, version + 2};
      more_tensors = 0;
      break;
    case OpKind::kReducescatter:
      params.shape = {version % 5 + 1};
      params.postscale = 1.0 + version;
      break;
    case OpKind::kBarrier:
    case OpKind::kJoin:
      more_tensors = 0;
      break;
  }
  params.rest.assign(static_cast<std::size_t>(more_tensors), further);
  return request;
}

}  // namespace

Workload::Workload(WorkloadOptions options)
    : options_(options), versions_(static_cast<std::size_t>(options.names)) {
  for (int name = 0; name < options_.names; ++name) {
    int version = 0;
    for (int round = 0; round < options_.rounds; ++round) {
      if (OneIn(options_.change_one_in, Mix(options_.seed, kChange, name, round))) ++version;
      versions_[static_cast<std::size_t>(name)].push_back(version);
    }
  }
}

int Workload::IndexOf(const std::string& name) const {
  constexpr std::size_t kPrefix = 6;  // "layer."
  int index = -1;
  if (name.size() > kPrefix)
    std::from_chars(name.data() + kPrefix, name.data() + name.size(), index);
  return index >= 0 && index < options_.names && NameOf(index) == name ? index : -1;
}

int Workload::VersionOf(int name, int round) const {
  return versions_[static_cast<std::size_t>(name)][static_cast<std::size_t>(round)];
}

bool Workload::Dissents(int name, int round, int rank) const {
  const std::uint64_t random = Mix(options_.seed, kDisagree, name, round);
  if (!OneIn(options_.disagree_one_in, random)) return false;
  // Now and then everyone dissents, which is agreement.
  return OneIn(static_cast<int>(random >> 60) + 1, Mix(random, kDissenter, rank));
}

Request Workload::Ask(int name, int round, int rank) const {
  std::size_t kind = static_cast<std::size_t>(name) % kKinds.size();
  int version = VersionOf(name, round);
  if (Dissents(name, round, rank)) {
    const bool other_kind = OneIn(2, Mix(options_.seed, kOtherKind, name, round));
    if (other_kind) {
      kind = (kind + 1) % kKinds.size();
    } else {
      version += 100;
    }
  }
  Request request = Make(kKinds[kind], version, (name + version) % 3);
  request.name = NameOf(name);
  if (request.params.kind == OpKind::kAllgather) {
    // One rank in four has other rows in every round.
    const bool fickle = OneIn(4, Mix(options_.seed, kRows, name, rank));
    const std::uint64_t rows = Mix(options_.seed, kRows, name, rank, fickle ? round : version);
    for (std::size_t tensor = 0; tensor < request.params.tensor_count(); ++tensor) {
      request.first_dims.push_back(static_cast<std::int64_t>((rows >> tensor) % 5));
    }
  }
  return request;
}

}  // namespace hora::sim
