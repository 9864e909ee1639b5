// What each rank asks for in each round of each name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hora/wire/request.h"

namespace hora::sim {

struct WorkloadOptions {
  std::uint64_t seed = 0;
  int size = 2;
  int names = 4;
  int rounds = 4;           // of every name
  int change_one_in = 4;    // rounds in which all ranks change a name's parameters together
  int disagree_one_in = 0;  // rounds in which some ranks ask for something else; 0: never
};

// A pure function of its options: the checker knows what the ranks should have agreed.
class Workload {
 public:
  explicit Workload(WorkloadOptions options);

  int names() const { return options_.names; }
  int rounds() const { return options_.rounds; }
  std::string NameOf(int name) const { return "layer." + std::to_string(name) + ".weight"; }
  int IndexOf(const std::string& name) const;  // -1: not one of ours

  Request Ask(int name, int round, int rank) const;

 private:
  int VersionOf(int name, int round) const;
  bool Dissents(int name, int round, int rank) const;

  WorkloadOptions options_;
  std::vector<std::vector<int>> versions_;  // by name and round
};

}  // namespace hora::sim
