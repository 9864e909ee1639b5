#include "hora/negotiation/request_validator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/format.h"
#include "hora/negotiation/wording.h"
#include "hora/wire/limits.h"

namespace hora {
namespace {

constexpr std::size_t kMaxGroups = 8;  // values listed per aspect
constexpr std::size_t kMaxValueText = 120;

using Variants = std::span<const RequestVariant>;

// Of what an aspect is said.
struct Subject {
  const OpParams& params;
  std::size_t tensor;  // of a group; smaller than every variant's number of tensors
  const RankNames& names;
};

struct Aspect {
  const char* name;
  std::string (*text)(const Subject& subject);
  // Whether it means something for operations of this kind; nullptr: for all.
  bool (*applies)(OpKind kind);
};

bool Reduces(OpKind kind) { return kind == OpKind::kAllreduce || kind == OpKind::kReducescatter; }
bool IsBroadcast(OpKind kind) { return kind == OpKind::kBroadcast; }
bool FirstDimensionMayDiffer(OpKind kind) {
  return kind == OpKind::kAllgather || kind == OpKind::kAlltoall;
}
bool FirstDimensionMatters(OpKind kind) { return !FirstDimensionMayDiffer(kind); }

std::string TrailingShape(const Subject& subject) {
  const Shape& shape = subject.params.shape_of(subject.tensor);
  if (shape.rank() == 0) return "[]";
  std::string text = "[*";
  for (int axis = 1; axis < shape.rank(); ++axis) text += fmt::format(", {}", shape.dim(axis));
  return text + "]";
}

std::string RootText(const Subject& subject) {
  return fmt::format("{}", RankName(subject.params.root_rank, subject.names));
}

// In the order in which a reader wants to know.
constexpr Aspect kOperation = {
    "operation", [](const Subject& s) { return std::string(ToString(s.params.kind)); }, nullptr};
constexpr Aspect kTensorCount = {
    "number of tensors",
    [](const Subject& s) { return fmt::format("{}", s.params.tensor_count()); }, nullptr};
constexpr std::array<Aspect, 3> kTensorAspects = {{
    {"dtype", [](const Subject& s) { return std::string(ToString(s.params.dtype_of(s.tensor))); },
     nullptr},
    {"shape", [](const Subject& s) { return s.params.shape_of(s.tensor).ToString(); },
     FirstDimensionMatters},
    {"shape after the first dimension", TrailingShape, FirstDimensionMayDiffer},
}};
constexpr std::array<Aspect, 6> kOperationAspects = {{
    {"reduce op", [](const Subject& s) { return std::string(ToString(s.params.reduce_op)); },
     Reduces},
    {"root rank", RootText, IsBroadcast},
    {"prescale", [](const Subject& s) { return fmt::format("{}", s.params.prescale); }, Reduces},
    {"postscale", [](const Subject& s) { return fmt::format("{}", s.params.postscale); }, Reduces},
    {"priority", [](const Subject& s) { return fmt::format("{}", s.params.priority); }, nullptr},
    {"device",
     [](const Subject& s) {
       return std::string(s.params.device.type == DeviceType::kCpu ? "cpu" : "cuda");
     },
     nullptr},
}};

bool Applies(const Aspect& aspect, Variants variants) {
  return aspect.applies == nullptr ||
         std::all_of(variants.begin(), variants.end(),
                     [&](const RequestVariant& v) { return aspect.applies(v.params.kind); });
}

struct Group {
  std::string value;
  RankSet ranks;
};

std::string Listed(const std::vector<std::string>& items, std::string_view separator) {
  std::string text;
  for (const std::string& item : items) text += text.empty() ? item : std::string(separator) + item;
  return text;
}

// Collects what the variants of one name differ in.
class Comparison {
 public:
  Comparison(Variants variants, const RankNames& names) : variants_(variants), names_(names) {}

  // True, and remembered, when the aspect differs. `tensor`: which one of a group is compared.
  bool Differs(const Aspect& aspect, std::size_t tensor = 0) {
    if (!Applies(aspect, variants_)) return false;
    const std::vector<Group> groups = GroupBy(aspect, tensor);
    if (groups.size() < 2) return false;
    std::vector<std::string> values;
    for (const Group& group : groups) {
      values.push_back(fmt::format("{}: {}", RanksText(group.ranks, names_),
                                   Shortened(group.value, kMaxValueText)));
    }
    differences_.push_back(fmt::format("on {}: {}", aspect.name, Listed(values, "; ")));
    aspects_.emplace_back(aspect.name);
    return true;
  }

  // The first tensor that differs, or -1. All variants have the same number of tensors.
  int FirstTensor() {
    const OpParams& first = variants_.front().params;
    for (std::size_t tensor = 0; tensor < first.tensor_count(); ++tensor) {
      const bool same = std::all_of(variants_.begin(), variants_.end(), [&](const auto& variant) {
        return variant.params.dtype_of(tensor) == first.dtype_of(tensor) &&
               variant.params.shape_of(tensor) == first.shape_of(tensor);
      });
      if (same) continue;
      for (const Aspect& aspect : kTensorAspects) Differs(aspect, tensor);
      return static_cast<int>(tensor);
    }
    return -1;
  }

  std::string Text(std::string_view what) const {
    return fmt::format("{}: ranks disagree {}. Submit the same {} on every rank.", what,
                       Listed(differences_, "; and "), Listed(aspects_, " and "));
  }

 private:
  std::vector<Group> GroupBy(const Aspect& aspect, std::size_t tensor) const {
    std::vector<Group> groups;
    RankSet others;
    for (const RequestVariant& variant : variants_) {
      std::string value = aspect.text({variant.params, tensor, names_});
      const auto same = std::find_if(groups.begin(), groups.end(),
                                     [&](const Group& group) { return group.value == value; });
      if (same != groups.end()) {
        same->ranks.Add(variant.ranks);
      } else if (groups.size() < kMaxGroups) {
        groups.push_back({std::move(value), variant.ranks});
      } else {
        others.Add(variant.ranks);
      }
    }
    if (!others.empty()) groups.push_back({"other values", std::move(others)});
    return groups;
  }

  Variants variants_;
  const RankNames& names_;
  std::vector<std::string> differences_;
  std::vector<std::string> aspects_;
};

// What is wrong with one tensor, which is the same on all ranks; "" for nothing.
std::string ProblemOf(const OpParams& params, std::size_t tensor) {
  const DType dtype = params.dtype_of(tensor);
  const int dimensions = params.shape_of(tensor).rank();
  switch (params.kind) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      if (!IsReducible(dtype, params.reduce_op)) {
        return fmt::format("dtype {} cannot be reduced by {}; convert the tensor first",
                           ToString(dtype), ToString(params.reduce_op));
      }
      if (params.kind == OpKind::kAllreduce) return "";
      if (params.reduce_op == ReduceOp::kAdasum) return "there is no adasum whose result is parted";
      if (dimensions > 0) return "";
      return "a tensor without dimensions has no rows to scatter; use allreduce";
    case OpKind::kAllgather:
      if (dimensions > 0) return "";
      return "a tensor without dimensions cannot be gathered along the first one; reshape it to "
             "[1]";
    case OpKind::kAlltoall:
      if (dimensions > 0) return "";
      return "a tensor without dimensions has no rows to send; reshape it to [1]";
    case OpKind::kBroadcast:
    case OpKind::kBarrier:
    case OpKind::kJoin:
      break;
  }
  return "";
}

// "allreduce 'g'", "allreduce 'g' (tensor 3 of 5)".
std::string TensorText(const std::string& name, const OpParams& params, std::size_t tensor) {
  const std::string text = OpText(params.kind, name);
  if (params.rest.empty()) return text;
  return fmt::format("{} (tensor {} of {})", text, tensor + 1, params.tensor_count());
}

// What one variant alone has wrong, which all ranks have then.
Status CheckAgreed(const std::string& name, const OpParams& params, int size) {
  for (std::size_t tensor = 0; tensor < params.tensor_count(); ++tensor) {
    if (const std::string problem = ProblemOf(params, tensor); !problem.empty()) {
      return Error(StatusCode::kInvalidArgument, "{}: {}", TensorText(name, params, tensor),
                   problem);
    }
  }
  const bool rooted = params.kind == OpKind::kBroadcast;
  if (rooted && (params.root_rank < 0 || params.root_rank >= size)) {
    return Error(StatusCode::kInvalidArgument, "{}: root rank {} is not between 0 and {}",
                 OpText(params.kind, name), params.root_rank, size - 1);
  }
  return Status::Ok();
}

// Joined ranks have nothing to give, which only an allreduce can make do with.
Status CheckNobodyIsNeeded(const std::string& name, OpKind kind, const RankSet& absent,
                           const RankNames& names) {
  if (absent.empty() || kind == OpKind::kAllreduce) return Status::Ok();
  return Error(StatusCode::kMismatch,
               "{}: {} {} joined, and only an allreduce goes on without {}. Let every rank submit "
               "its other operations before it joins.",
               OpText(kind, name), RanksText(absent, names), absent.count() == 1 ? "has" : "have",
               absent.count() == 1 ? "it" : "them");
}

// What is wrong with a shape that no rank may ask for; "" for nothing.
std::string ProblemOf(const Shape& shape) {
  const auto dims = shape.dims();
  if (dims.size() > kMaxDimensions) {
    return fmt::format("{} dimensions, at most {}", dims.size(), kMaxDimensions);
  }
  for (const std::int64_t extent : dims) {
    if (extent < 0) return fmt::format("shape {}", shape.ToString());
  }
  return {};
}

// The tensors of the request, and how many there are.
Status CheckTensors(const Request& request) {
  const OpParams& params = request.params;
  const auto invalid = [&](std::string_view problem) {
    return Error(StatusCode::kInvalidArgument, "{}: {}", OpText(params.kind, request.name),
                 problem);
  };
  const bool groups = Reduces(params.kind) || params.kind == OpKind::kAllgather;
  if (!params.rest.empty() && !groups) return invalid("it takes one tensor");
  if (params.tensor_count() > kMaxGroupTensors) {
    return invalid(fmt::format("{} tensors, at most {}", params.tensor_count(), kMaxGroupTensors));
  }
  for (std::size_t tensor = 0; tensor < params.tensor_count(); ++tensor) {
    if (const std::string problem = ProblemOf(params.shape_of(tensor)); !problem.empty()) {
      return Error(StatusCode::kInvalidArgument, "{}: {}", TensorText(request.name, params, tensor),
                   problem);
    }
  }
  const std::size_t rows = params.kind == OpKind::kAllgather ? params.tensor_count() : 0;
  if (request.first_dims.size() != rows) {
    return invalid(fmt::format("{} first dimensions, not {}", request.first_dims.size(), rows));
  }
  for (const std::int64_t first_dim : request.first_dims) {
    if (first_dim < 0) return invalid(fmt::format("first dimension {}", first_dim));
  }
  return Status::Ok();
}

// Into response.first_dims: what every rank gathers. Needs one variant, of all ranks.
Status Gather(const RequestVariant& agreed, int size, Response& response) {
  const std::size_t tensors = agreed.params.tensor_count();
  std::vector<std::int64_t> totals(tensors);
  response.first_dims.reserve(agreed.first_dims.size());
  for (std::size_t i = 0; i < agreed.first_dims.size(); ++i) {
    const std::int64_t rows = agreed.first_dims[i].rows;
    std::int64_t& total = totals[i % tensors];
    if (__builtin_add_overflow(total, rows, &total)) {
      response.first_dims.clear();
      return Error(StatusCode::kInvalidArgument,
                   "{}: the sum of the first dimensions of {} ranks exceeds 2^63",
                   TensorText(response.name, agreed.params, i % tensors), size);
    }
    response.first_dims.push_back(rows);
  }
  return Status::Ok();
}

}  // namespace

Status CheckRequest(const Request& request) {
  const OpParams& params = request.params;
  const auto invalid = [&](std::string_view problem) {
    return Error(StatusCode::kInvalidArgument, "{}: {}", OpText(params.kind, request.name),
                 problem);
  };
  if (request.name.size() > kMaxNameBytes) {
    return invalid(
        fmt::format("the name has {} bytes, at most {}", request.name.size(), kMaxNameBytes));
  }
  if ((params.kind == OpKind::kJoin) != (request.name == kJoinName)) {
    return invalid(
        fmt::format("the name {} is that of joins, and of nothing else", Quoted(kJoinName)));
  }
  if (!std::isfinite(params.prescale) || !std::isfinite(params.postscale)) {
    return invalid(fmt::format("prescale {} and postscale {} must be finite", params.prescale,
                               params.postscale));
  }
  return CheckTensors(request);
}

Response Decide(SubtreeRequest request, int size, const RankNames& names) {
  RequestVariant& agreed = request.variants.front();
  Response response{.name = request.name, .params = agreed.params};
  response.absent = RankSet::AllOf(size);
  for (const RequestVariant& variant : request.variants) response.absent.Remove(variant.ranks);
  if (request.variants.size() > 1) {
    response.error = Status(StatusCode::kMismatch, MismatchText(request, names));
    return response;
  }
  response.error = CheckAgreed(request.name, agreed.params, size);
  if (response.error.ok()) {
    response.error = CheckNobodyIsNeeded(request.name, agreed.params.kind, response.absent, names);
  }
  if (response.error.ok() && agreed.params.kind == OpKind::kAllgather) {
    response.error = Gather(agreed, size, response);
  }
  return response;
}

std::string MismatchText(const SubtreeRequest& request, const RankNames& names) {
  const Variants variants = request.variants;
  const OpParams& first = variants.front().params;
  Comparison comparison(variants, names);
  const bool same_kind = !comparison.Differs(kOperation);
  std::string what = same_kind ? OpText(first.kind, request.name) : Quoted(request.name);
  if (!comparison.Differs(kTensorCount)) {
    const int tensor = comparison.FirstTensor();
    if (tensor >= 0 && !first.rest.empty()) {
      what += fmt::format(" (tensor {} of {})", tensor + 1, first.tensor_count());
    }
  }
  for (const Aspect& aspect : kOperationAspects) comparison.Differs(aspect);
  return comparison.Text(what);
}

}  // namespace hora
