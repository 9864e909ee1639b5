#include "hora/control/heartbeat_word.h"

#include <algorithm>

#include "hora/base/format.h"

namespace hora {

HeartbeatWord HeartbeatWord::Abort(int origin, const Status& cause) {
  HeartbeatWord word{.kind = Kind::kAbort, .code = cause.code(), .origin = origin};
  word.text_bytes = static_cast<std::uint16_t>(std::min(cause.message().size(), kTextBytes));
  std::copy_n(cause.message().begin(), word.text_bytes, word.text.begin());
  return word;
}

Status HeartbeatWord::Check() const {
  switch (kind) {
    case Kind::kBeat:
    case Kind::kGoodbye:
      return Status::Ok();
    case Kind::kAbort:
      if (code == StatusCode::kOk || code > StatusCode::kInternal || text_bytes > kTextBytes) {
        return Error(StatusCode::kInternal, "sent an abort with the code {} and {} bytes of text",
                     static_cast<int>(code), text_bytes);
      }
      return Status::Ok();
  }
  return Error(StatusCode::kInternal, "sent {} where only a beat, an abort or a goodbye is allowed",
               static_cast<int>(kind));
}

Status HeartbeatWord::cause() const { return {code, std::string(text.data(), text_bytes)}; }

}  // namespace hora
