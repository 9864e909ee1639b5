#pragma once

#include <memory>
#include <vector>

#include "hora/wire/agreed.h"

namespace hora {

// As the negotiator hands them on.
inline std::vector<Agreed> Share(const std::vector<Response>& responses) {
  std::vector<Agreed> agreed;
  for (const Response& response : responses) {
    agreed.push_back({.response = std::make_shared<const Response>(response)});
  }
  return agreed;
}

}  // namespace hora
