#include "hora/engine/agreement.h"

#include <utility>

#include "hora/base/clock.h"
#include "hora/base/format.h"
#include "hora/negotiation/wording.h"
#include "hora/wire/limits.h"

namespace hora {

Status RunToEnd(ProcessSet& set, TensorEntry entry, const std::shared_ptr<Handle>& handle,
                Duration patience) {
  entry.handle = handle;
  Status status = set.Submit(std::move(entry), /*will_wait=*/true);
  if (!status.ok()) return status;
  // The stall detector ends this well before; the entry's memory must stay until it has.
  const TimePoint deadline = SteadyClock::Instance().Now() + 2 * patience;
  while (!handle->done()) {
    if (set.Wait(*handle, deadline) != WakeReason::kDeadline) continue;
    set.Abort(Error(StatusCode::kStalled, "rank {} waited too long in '{}'",
                    set.names().Of(set.rank()), handle->name()));
  }
  return handle->status();
}

Result<std::vector<std::string>> ExchangeTexts(ProcessSet& set, const std::string& name,
                                               std::string_view mine, Duration patience) {
  std::string said = Shortened(std::string(mine), kMaxMessageBytes);
  const auto rows = static_cast<std::int64_t>(said.size());
  TensorEntry entry;
  entry.request = {.name = name,
                   .params = {.kind = OpKind::kAllgather, .dtype = DType::kUInt8, .shape = {0}},
                   .first_dims = {rows}};
  entry.input = {.data = reinterpret_cast<std::byte*>(said.data()),
                 .dtype = DType::kUInt8,
                 .device = {},
                 .shape = {rows}};
  const auto handle = std::make_shared<Handle>(name);
  Status status = RunToEnd(set, std::move(entry), handle, patience);
  if (!status.ok()) return Fail(std::move(status));
  const Gathered& gathered = *handle->gathered().front();
  const auto* next = reinterpret_cast<const char*>(gathered.bytes().data());
  std::vector<std::string> texts;
  for (const std::int64_t length : gathered.rows_by_rank()) {
    texts.emplace_back(next, static_cast<std::size_t>(length));
    next += length;
  }
  return texts;
}

Status AgreeOnStatus(ProcessSet& set, const std::string& name, const Status& mine,
                     Duration patience) {
  // One byte for the code, then the text.
  const std::string said = static_cast<char>(mine.code()) + mine.message();
  const Result<std::vector<std::string>> all = ExchangeTexts(set, name, said, patience);
  if (!all) return all.error();
  for (std::size_t place = 0; place < all->size(); ++place) {
    const auto code = static_cast<StatusCode>((*all)[place].front());
    if (code == StatusCode::kOk) continue;
    return Error(code, "rank {}: {}", set.names().Of(static_cast<int>(place)),
                 (*all)[place].substr(1));
  }
  return Status::Ok();
}

}  // namespace hora
