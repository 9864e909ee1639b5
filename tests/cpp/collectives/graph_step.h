// What a graph is captured of: calls of every kind, on memory that stays where it is.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "collectives/operands.h"

namespace hora {

// The calls of a training step, on memory that stays where it is: of every kind, with the fusion
// memory and without.
class GraphStep {
 public:
  static constexpr int kSize = 2;  // ranks

  explicit GraphStep(int rank) : rank_(rank) {
    const std::size_t to_me = rank == 0 ? 70 : 33;
    const std::pair<const char*, std::size_t> sizes[] = {
        {"a", 10},      {"b", 300},   {"c", 41},         {"sum", 41},       {"max", 41},
        {"gather", 5},  {"of 0", 5},  {"of 1", 5},       {"root", 17},      {"received", 17},
        {"to 0", 70},   {"to 1", 33}, {"from 0", to_me}, {"from 1", to_me}, {"share 0", 9},
        {"share 1", 9}, {"share", 9}};
    for (const auto& [name, size] : sizes) memory_[name].resize(size);
  }

  // Other numbers in every round and rank.
  void Fill(int round) {
    float next = static_cast<float>(10000 * round + 100 * rank_);
    for (auto& [name, floats] : memory_) {
      for (float& value : floats) value = next += 1;
    }
  }

  std::vector<CollectiveCall> Calls() {
    const std::uint64_t to_0 = On({"to 0"}).size(), to_1 = On({"to 1"}).size();
    std::vector<CollectiveCall> calls;
    calls.push_back(
        AllreduceCall(Of(ReduceOp::kAverage, 0.5), kSize, On({"a", "b"}), On({"a", "b"})));
    calls.back().fused = true;
    calls.push_back(AllreduceCall(Of(ReduceOp::kSum), kSize, On({"c"}), On({"sum"})));
    calls.push_back(AllreduceCall(Of(ReduceOp::kMax), kSize, On({"c"}), On({"max"})));
    calls.back().absent = RankSet::Of(1);
    calls.push_back(AllgatherCall(On({"gather"}), {On({"of 0"}), On({"of 1"})}));
    calls.push_back(BroadcastCall(1, kSize, On({"root"}), On({"received"})));
    calls.push_back(AlltoallCall({to_0, to_1, to_0, to_1}, {On({"to 0"}), On({"to 1"})},
                                 {On({"from 0"}), On({"from 1"})}));
    calls.push_back(
        ReducescatterCall(Of(ReduceOp::kSum), {On({"share 0"}), On({"share 1"})}, On({"share"})));
    return calls;
  }

  const std::map<std::string, std::vector<float>>& memory() const { return memory_; }

 private:
  static OpParams Of(ReduceOp op, double prescale = 1) {
    return Params(DType::kFloat32, op, prescale);
  }

  ByteStream On(std::initializer_list<const char*> names) {
    std::vector<std::span<std::byte>> segments;
    for (const char* name : names) {
      segments.push_back(std::as_writable_bytes(std::span(memory_.at(name))));
    }
    return ByteStream(std::move(segments));
  }

  const int rank_;
  std::map<std::string, std::vector<float>> memory_;
};

}  // namespace hora
