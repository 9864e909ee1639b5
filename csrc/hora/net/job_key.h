// What makes a process a member of a job.
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace hora {

using JobKey = std::array<std::byte, 32>;

// The id is public: it tells jobs apart. The key is secret: it proves membership, and is never
// logged, never in an argument vector, never in the environment.
struct JobCredentials {
  std::string job_id;  // at most 64 bytes
  JobKey key{};
};

}  // namespace hora
