#include "sim/workload.h"

#include <charconv>

#include "sim/random.h"

namespace hora::sim {
namespace {

enum Purpose : std::uint64_t { kChange = 1, kDisagree, kDissenter, kOtherKind, kRows };

bool OneIn(int chances, std::uint64_t random) {
  return chances > 0 && random % static_cast<std::uint64_t>(chances) == 0;
}

Request Make(OpKind kind, int version) {
  Request request{.params = {.kind = kind}};
  OpParams& params = request.params;
  switch (kind) {
    case OpKind::kAllreduce:
      params.shape = {version % 3 + 1, 4};
      params.reduce_op = version % 2 == 0 ? ReduceOp::kSum : ReduceOp::kAverage;
      params.prescale = 1.0 + version;
      break;
    case OpKind::kAllgather:
      params.shape = {0, version + 1};
      break;
    case OpKind::kBroadcast:
      params.shape = {version + 1};
      params.root_rank = version % 2;
      break;
    case OpKind::kBarrier:
      break;
  }
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
  int kind = name % kOpKindCount;
  int version = VersionOf(name, round);
  if (Dissents(name, round, rank)) {
    const bool other_kind = OneIn(2, Mix(options_.seed, kOtherKind, name, round));
    if (other_kind) {
      kind = (kind + 1) % kOpKindCount;
    } else {
      version += 100;
    }
  }
  Request request = Make(static_cast<OpKind>(kind), version);
  request.name = NameOf(name);
  if (request.params.kind == OpKind::kAllgather) {
    // One rank in four has other rows in every round.
    const bool fickle = OneIn(4, Mix(options_.seed, kRows, name, rank));
    const std::uint64_t rows = Mix(options_.seed, kRows, name, rank, fickle ? round : version);
    request.first_dim = static_cast<std::int64_t>(rows % 5);
  }
  return request;
}

Response Workload::Expected(int name, int round) const {
  const Request first = Ask(name, round, 0);
  Response response{.name = first.name, .params = first.params};
  for (int rank = 0; rank < options_.size; ++rank) {
    const Request request = Ask(name, round, rank);
    if (!(request.params == first.params)) {
      response.error = Status(StatusCode::kMismatch, "");
      response.first_dims.clear();
      return response;
    }
    if (request.params.kind == OpKind::kAllgather) response.first_dims.push_back(request.first_dim);
  }
  return response;
}

}  // namespace hora::sim
