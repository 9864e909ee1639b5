// What hosts tell each other of their lives.
#include <algorithm>
#include <cstring>

#include "fuzz_input.h"
#include "hora/control/heartbeat_word.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  HeartbeatWord word;
  std::memcpy(&word, data, std::min(size, sizeof(word)));
  if (!word.Check().ok() || word.kind != HeartbeatWord::Kind::kAbort) return 0;
  const Status cause = word.cause();
  fuzz::Require(!cause.ok() && ToString(cause.code()) != "UNKNOWN");
  const HeartbeatWord again = HeartbeatWord::Abort(word.origin, cause);
  fuzz::Require(again.Check().ok() && again.cause() == cause && again.origin == word.origin);
  return 0;
}
