#include "hora/negotiation/request_validator.h"

#include <array>
#include <cmath>
#include <functional>
#include <limits>
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
using ValueText = std::string (*)(const OpParams& params);

struct Aspect {
  const char* name;
  ValueText text;
  // Whether it means something for operations of this kind; nullptr: for all.
  bool (*applies)(OpKind kind);
};

bool IsAllreduce(OpKind kind) { return kind == OpKind::kAllreduce; }
bool IsBroadcast(OpKind kind) { return kind == OpKind::kBroadcast; }
bool IsAllgather(OpKind kind) { return kind == OpKind::kAllgather; }
bool IsNotAllgather(OpKind kind) { return kind != OpKind::kAllgather; }

std::string TrailingShape(const OpParams& params) {
  if (params.shape.rank() == 0) return "[]";
  std::string text = "[*";
  for (int axis = 1; axis < params.shape.rank(); ++axis) {
    text += fmt::format(", {}", params.shape.dim(axis));
  }
  return text + "]";
}

// In the order in which a reader wants to know.
constexpr std::array<Aspect, 9> kAspects = {{
    {"operation", [](const OpParams& p) { return std::string(ToString(p.kind)); }, nullptr},
    {"dtype", [](const OpParams& p) { return std::string(ToString(p.dtype)); }, nullptr},
    {"shape", [](const OpParams& p) { return p.shape.ToString(); }, IsNotAllgather},
    {"shape after the first dimension", TrailingShape, IsAllgather},
    {"reduce op", [](const OpParams& p) { return std::string(ToString(p.reduce_op)); },
     IsAllreduce},
    {"root rank", [](const OpParams& p) { return fmt::format("{}", p.root_rank); }, IsBroadcast},
    {"prescale", [](const OpParams& p) { return fmt::format("{}", p.prescale); }, IsAllreduce},
    {"postscale", [](const OpParams& p) { return fmt::format("{}", p.postscale); }, IsAllreduce},
    {"device",
     [](const OpParams& p) {
       return std::string(p.device.type == DeviceType::kCpu ? "cpu" : "cuda");
     },
     nullptr},
}};

bool Applies(const Aspect& aspect, Variants variants) {
  if (aspect.applies == nullptr) return true;
  for (const RequestVariant& variant : variants) {
    if (!aspect.applies(variant.params.kind)) return false;
  }
  return true;
}

struct Group {
  std::string value;
  RankSet ranks;
};

std::vector<Group> GroupBy(const Aspect& aspect, Variants variants) {
  std::vector<Group> groups;
  RankSet others;
  for (const RequestVariant& variant : variants) {
    std::string value = aspect.text(variant.params);
    Group* same = nullptr;
    for (Group& group : groups) {
      if (group.value == value) same = &group;
    }
    if (same != nullptr) {
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

std::string Listed(const std::vector<std::string>& items, std::string_view separator) {
  std::string text;
  for (const std::string& item : items) text += text.empty() ? item : std::string(separator) + item;
  return text;
}

// What one variant alone has wrong, which all ranks have then.
Status CheckAgreed(const std::string& name, const OpParams& params, int size) {
  const auto invalid = [&](std::string_view problem) {
    return Error(StatusCode::kInvalidArgument, "{}: {}", OpText(params.kind, name), problem);
  };
  switch (params.kind) {
    case OpKind::kAllreduce:
      if (!IsReducible(params.dtype)) {
        return invalid(fmt::format("dtype {} cannot be reduced; convert the tensor first",
                                   ToString(params.dtype)));
      }
      break;
    case OpKind::kAllgather:
      if (params.shape.rank() < 1) {
        return invalid(
            "a tensor without dimensions cannot be gathered along the first one; "
            "reshape it to [1]");
      }
      break;
    case OpKind::kBroadcast:
      if (params.root_rank < 0 || params.root_rank >= size) {
        return invalid(
            fmt::format("root rank {} is not between 0 and {}", params.root_rank, size - 1));
      }
      break;
    case OpKind::kBarrier:
      break;
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
  if (params.shape.dims().size() > kMaxDimensions) {
    return invalid(fmt::format("{} dimensions, at most {}", params.shape.rank(), kMaxDimensions));
  }
  for (const std::int64_t extent : params.shape.dims()) {
    if (extent < 0) return invalid(fmt::format("shape {}", params.shape.ToString()));
  }
  if (request.first_dim < 0) return invalid(fmt::format("first dimension {}", request.first_dim));
  if (!std::isfinite(params.prescale) || !std::isfinite(params.postscale)) {
    return invalid(fmt::format("prescale {} and postscale {} must be finite", params.prescale,
                               params.postscale));
  }
  return Status::Ok();
}

Response Decide(SubtreeRequest request, int size) {
  RequestVariant& agreed = request.variants.front();
  Response response{.name = request.name, .params = agreed.params};
  if (request.variants.size() > 1) {
    response.error = Status(StatusCode::kMismatch, MismatchText(request));
    return response;
  }
  response.error = CheckAgreed(request.name, agreed.params, size);
  if (!response.error.ok() || agreed.params.kind != OpKind::kAllgather) return response;
  std::int64_t total = 0;
  for (const RankRows& own : agreed.first_dims) {
    if (__builtin_add_overflow(total, own.rows, &total)) {
      response.error = Error(StatusCode::kInvalidArgument,
                             "{}: the sum of the first dimensions of {} "
                             "ranks exceeds 2^63",
                             OpText(agreed.params.kind, request.name), size);
      response.first_dims.clear();
      return response;
    }
    response.first_dims.push_back(own.rows);
  }
  return response;
}

std::string MismatchText(const SubtreeRequest& request) {
  const Variants variants = request.variants;
  std::vector<std::string> differences;
  std::vector<std::string> names;
  bool same_kind = true;
  for (const Aspect& aspect : kAspects) {
    if (!Applies(aspect, variants)) continue;
    const std::vector<Group> groups = GroupBy(aspect, variants);
    if (groups.size() < 2) continue;
    if (&aspect == &kAspects.front()) same_kind = false;
    std::vector<std::string> values;
    for (const Group& group : groups) {
      values.push_back(
          fmt::format("{}: {}", RanksText(group.ranks), Shortened(group.value, kMaxValueText)));
    }
    differences.push_back(fmt::format("on {}: {}", aspect.name, Listed(values, "; ")));
    names.emplace_back(aspect.name);
  }
  const std::string what =
      same_kind ? OpText(variants.front().params.kind, request.name) : Quoted(request.name);
  return fmt::format("{}: ranks disagree {}. Submit the same {} on every rank.", what,
                     Listed(differences, "; and "), Listed(names, " and "));
}

}  // namespace hora
