// Where the ranks of a job meet, and what they tell each other before they are connected.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"

namespace hora {

inline constexpr std::size_t kMaxStoreKeyBytes = 256;
inline constexpr std::size_t kMaxStoreValueBytes = 64u << 10;
// Whoever sets this key says why the job cannot be: all who wait to meet for the first time, or
// come to it soon, fail with the value; until the rank that set it comes itself. After the first
// meeting it has no effect.
inline constexpr std::string_view kProblemKey = "hora/problem";

// Everybody who came to a meeting.
struct Meeting {
  std::uint64_t generation = 0;   // larger than of any meeting before
  std::vector<std::string> told;  // by rank
};

// Blocks at most until the deadline, and a second more for a store that does not answer; kTimeout
// says who is missing or which key. Any thread.
class Store {
 public:
  virtual ~Store() = default;

  // Waits until all `size` ranks have come, each with what it tells the others; all see the same
  // meeting. Who leaves before it is complete (gives up, dies) does not count and may come again.
  // A rank that comes twice, or with another size, fails the meeting for all of them (kMismatch).
  virtual Result<Meeting> Meet(int rank, int size, const std::string& tells,
                               TimePoint deadline) = 0;

  virtual Status Set(const std::string& key, const std::string& value) = 0;
  // Waits until somebody sets the key.
  virtual Result<std::string> Get(const std::string& key, TimePoint deadline) = 0;
};

}  // namespace hora
