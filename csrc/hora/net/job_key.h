// What makes a process a member of a job.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace hora {

using KeyBytes = std::array<std::byte, 32>;

// The secret, for as long as a job has it: in a page of its own that core dumps leave out, and that
// is zeroed with the last of the copies, which share it. Any thread; nothing blocks. Whoever takes
// the bytes elsewhere overwrites them there.
class JobKey {
 public:
  JobKey() = default;  // zeros, which are nobody's secret
  // `secret` stays the caller's, to be overwritten. Throws std::bad_alloc without memory.
  explicit JobKey(std::span<const std::byte, 32> secret);

  std::span<const std::byte, 32> bytes() const;

 private:
  std::shared_ptr<const KeyBytes> page_;
};

// The id is public: it tells jobs apart. The key is secret: it proves membership, and is never
// logged, never in an argument vector, never in the environment.
struct JobCredentials {
  std::string job_id;  // at most 64 bytes
  JobKey key;
};

}  // namespace hora
