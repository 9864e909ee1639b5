#include "hora/collectives/plugin/library_group.h"

#include "hora/base/format.h"

namespace hora {
namespace {

hora_plugin_element ElementOf(DType dtype, ReduceOp op) {
  return {static_cast<std::uint8_t>(dtype), static_cast<std::uint8_t>(op)};
}

}  // namespace

Status LibraryGroup::Outcome(int code, const hora_plugin_error& error,
                             std::string_view operation) const {
  if (code == 0) return Status::Ok();
  return Error(StatusCode::kPeerFailed, "{}: {} failed: {}", plugin_->name, operation,
               error.text[0] == '\0' ? "it does not say why" : error.text);
}

bool LibraryGroup::Reduces(DType dtype, ReduceOp op) const {
  return plugin_->reduces(ElementOf(dtype, op)) != 0;
}

Status LibraryGroup::Allreduce(std::span<std::byte> buffer, DType dtype, ReduceOp op) {
  hora_plugin_error error{};
  const int code = plugin_->allreduce(group_, buffer.data(), buffer.size() / SizeOf(dtype),
                                      ElementOf(dtype, op), &error);
  return Outcome(code, error, "allreduce");
}

Status LibraryGroup::Broadcast(std::span<std::byte> buffer, int root) {
  hora_plugin_error error{};
  const int code = plugin_->broadcast(group_, buffer.data(), buffer.size(), root, &error);
  return Outcome(code, error, "broadcast");
}

Status LibraryGroup::Allgather(const std::byte* input, std::byte* output,
                               std::span<const std::uint64_t> bytes_by_rank) {
  hora_plugin_error error{};
  const int code = plugin_->allgather(group_, input, output, bytes_by_rank.data(), &error);
  return Outcome(code, error, "allgather");
}

Status LibraryGroup::Alltoall(const std::byte* input, std::span<const std::uint64_t> bytes_to,
                              std::byte* output, std::span<const std::uint64_t> bytes_from) {
  hora_plugin_error error{};
  const int code =
      plugin_->alltoall(group_, input, bytes_to.data(), output, bytes_from.data(), &error);
  return Outcome(code, error, "alltoall");
}

}  // namespace hora
