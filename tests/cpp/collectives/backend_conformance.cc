#include "collectives/backend_conformance.h"

#include "collectives/backend_conformance_judge.h"
#include "hora/collectives/adasum.h"

namespace hora {
namespace {

using Sizes = std::vector<std::size_t>;

// Zero, a few, and around each edge and some multiples of it, in elements.
Sizes SizesAround(const Conformance& conformance, std::size_t element) {
  Sizes sizes = {0, 1, 2, 17, 100};
  for (const std::size_t edge : conformance.edges) {
    const std::size_t count = edge / element;
    for (const std::size_t size : {count - 1, count, count + 1, 2 * count, 3 * count + 7}) {
      sizes.push_back(size);
    }
  }
  return sizes;
}

std::size_t LargestEdge(const Conformance& conformance) {
  return *std::max_element(conformance.edges.begin(), conformance.edges.end());
}

RankSet Ranks(std::initializer_list<int> ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return set;
}

std::uint64_t DigestOf(const Bytes& bytes) {
  std::uint64_t digest = 14695981039346656037u;
  for (const std::byte byte : bytes) {
    digest = (digest ^ std::to_integer<std::uint64_t>(byte)) * 1099511628211u;
  }
  return digest;
}

// Ranks may be processes: they compare digests by the very backend.
Status ExpectEqualOnAllRanks(int rank, int size, CollectiveBackend& backend, const Bytes& result) {
  std::vector<std::uint64_t> digests(static_cast<std::size_t>(size));
  std::uint64_t own = DigestOf(result);
  std::vector<ByteStream> outputs;
  for (std::uint64_t& digest : digests) {
    outputs.push_back(ByteStream({std::as_writable_bytes(std::span(&digest, 1))}));
  }
  CollectiveCall call =
      AllgatherCall(ByteStream({std::as_writable_bytes(std::span(&own, 1))}), std::move(outputs));
  Status status = backend.Execute(call);
  for (int other = 0; status.ok() && other < size; ++other) {
    EXPECT_EQ(digests[static_cast<std::size_t>(other)], own)
        << "ranks " << other << " and " << rank << " have different bits";
  }
  return status;
}

bool IsLeftOut(BackendGroup& group, const Conformance& conformance, const OpParams& params) {
  return !conformance.every_reduction && !group.backend(group.ranks()[0]).Supports(params);
}

struct Layout {
  bool in_place = false;
  int pieces = 1;
};

struct AllreduceCase {
  OpParams params;
  std::size_t elements = 0;
  Layout layout;
  RankSet absent;
  int divisor = 0;  // 0: all ranks
  std::uint64_t seed = 1;
};

void ExpectAllreduce(BackendGroup& group, const Conformance& conformance,
                     const AllreduceCase& test) {
  const OpParams& params = test.params;
  if (IsLeftOut(group, conformance, params)) return;
  SCOPED_TRACE(testing::Message() << "allreduce of " << test.elements << " x "
                                  << ToString(params.dtype) << " " << ToString(params.reduce_op)
                                  << ", " << test.layout.pieces << " pieces"
                                  << (test.layout.in_place ? " in place" : "") << " without "
                                  << test.absent.ToString() << " of " << group.size());
  const std::size_t element = SizeOf(params.dtype);
  const int divisor = test.divisor == 0 ? group.size() : test.divisor;
  const auto operands = RandomOperands(params.dtype, test.elements, group.size(), test.seed);
  const conformance::Judge judge(params, conformance, operands, divisor, test.absent);
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    const bool brings = !test.absent.Contains(rank);
    // What an absent rank's memory holds means nothing.
    const Bytes scratch(operands[0].size(), std::byte{0xFF});
    Pieces in(brings ? operands[rank] : scratch, test.layout.pieces, element, test.seed);
    // Differently cut than the input, so that pieces of both must be matched.
    Pieces out(scratch, test.layout.pieces, element, test.seed + 1);
    const bool in_place = test.layout.in_place;
    CollectiveCall call =
        AllreduceCall(params, group.size(), in.Stream(), in_place ? in.Stream() : out.Stream());
    call.absent = test.absent;
    call.divisor = divisor;
    call.fused = test.layout.pieces % 2 == 0 || test.seed % 5 == 0;
    if (!brings && !in_place) call.inputs.clear();
    if (Status status = backend.Execute(call); !status.ok()) return status;
    EXPECT_TRUE(in_place || !brings || in.Contents() == operands[rank]) << "the input changed";
    const Bytes result = in_place ? in.Contents() : out.Contents();
    judge.Expect(rank, result);
    return ExpectEqualOnAllRanks(rank, group.size(), backend, result);
  });
}

// counts[d]: the elements that rank d receives.
void ExpectReducescatter(BackendGroup& group, const Conformance& conformance,
                         const OpParams& params, const Sizes& counts, int pieces,
                         std::uint64_t seed) {
  if (IsLeftOut(group, conformance, params)) return;
  SCOPED_TRACE(testing::Message() << "reducescatter of " << testing::PrintToString(counts) << " x "
                                  << ToString(params.dtype) << " " << ToString(params.reduce_op));
  const std::size_t element = SizeOf(params.dtype);
  std::vector<std::vector<Bytes>> operands;  // [d][s]: what rank s brings for rank d
  for (std::size_t d = 0; d < counts.size(); ++d) {
    operands.push_back(RandomOperands(params.dtype, counts[d], group.size(), seed * 10 + d));
  }
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    std::vector<Pieces> inputs;
    for (std::size_t d = 0; d < counts.size(); ++d) {
      inputs.emplace_back(operands[d][rank], pieces, element, seed + d);
    }
    Pieces output(Bytes(counts[rank] * element), pieces, element, seed + 77);
    CollectiveCall call = ReducescatterCall(params, StreamsOf(inputs), output.Stream());
    call.fused = seed % 2 == 0;
    Status status = backend.Execute(call);
    for (std::size_t d = 0; d < counts.size(); ++d) {
      EXPECT_TRUE(inputs[d].Contents() == operands[d][rank]) << "the input changed";
    }
    const conformance::Judge judge(params, conformance, operands[rank], group.size());
    if (status.ok()) judge.Expect(rank, output.Contents());
    return status;
  });
}

void ExpectAllgather(BackendGroup& group, const Sizes& sizes, int pieces, bool in_place,
                     std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << "allgather of " << testing::PrintToString(sizes));
  std::vector<Bytes> inputs;
  for (std::size_t q = 0; q < sizes.size(); ++q) {
    inputs.push_back(RandomBytes(sizes[q], seed * 64 + q));
  }
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    Pieces in(inputs[rank], pieces, 1, seed);
    // In one piece of memory, as a tensor is, or each rank's part for itself.
    Bytes together(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}));
    std::vector<Pieces> outputs;
    std::vector<ByteStream> streams;
    for (std::size_t q = 0, begin = 0; q < sizes.size(); begin += sizes[q], ++q) {
      outputs.emplace_back(Bytes(sizes[q]), pieces, 1, seed + q);
      streams.push_back(pieces == 1 ? ByteStream({std::span(together).subspan(begin, sizes[q])})
                                    : outputs[q].Stream());
      if (in_place && static_cast<int>(q) == rank) streams.back().Scatter(0, inputs[q]);
    }
    ByteStream input = in_place ? streams[static_cast<std::size_t>(rank)] : in.Stream();
    CollectiveCall call = AllgatherCall(std::move(input), std::move(streams));
    call.fused = pieces > 1 && seed % 3 == 0;
    Status status = backend.Execute(call);
    for (std::size_t q = 0, begin = 0; status.ok() && q < sizes.size(); begin += sizes[q], ++q) {
      const auto part = std::span(together).subspan(begin, sizes[q]);
      const Bytes got = pieces == 1 ? Bytes(part.begin(), part.end()) : outputs[q].Contents();
      EXPECT_TRUE(got == inputs[q]) << "rank " << rank << " has wrong bytes of " << q;
    }
    return status;
  });
}

void ExpectBroadcast(BackendGroup& group, int root, std::size_t bytes, Layout layout,
                     std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << "broadcast of " << bytes << " bytes from rank " << root);
  const Bytes contents = RandomBytes(bytes, seed);
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    const bool is_root = rank == root;
    Pieces in(contents, layout.pieces, 1, seed);
    Pieces out(Bytes(bytes), layout.pieces, 1, seed + 1);
    // Others hand in nothing at all: their input is never looked at.
    CollectiveCall call = BroadcastCall(root, group.size(), is_root ? in.Stream() : ByteStream(),
                                        is_root && layout.in_place ? in.Stream() : out.Stream());
    call.fused = layout.pieces == 2;
    Status status = backend.Execute(call);
    EXPECT_TRUE((is_root && layout.in_place ? in : out).Contents() == contents) << "rank " << rank;
    return status;
  });
}

// bytes[s · size + d]: from rank s to rank d.
void ExpectAlltoall(BackendGroup& group, const std::vector<std::uint64_t>& bytes, int pieces,
                    std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << "alltoall of " << testing::PrintToString(bytes));
  const int size = group.size();
  const auto contents = [&](int from, int to) {
    return RandomBytes(bytes[from * size + to],
                       seed * 4096 + static_cast<std::uint64_t>(from * 64 + to));
  };
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    std::vector<Pieces> inputs, outputs;
    for (int other = 0; other < size; ++other) {
      inputs.emplace_back(contents(rank, other), pieces, 1, seed);
      outputs.emplace_back(Bytes(bytes[other * size + rank]), pieces, 1, seed + 1);
    }
    CollectiveCall call = AlltoallCall(bytes, StreamsOf(inputs), StreamsOf(outputs));
    Status status = backend.Execute(call);
    for (int other = 0; other < size; ++other) {
      EXPECT_TRUE(outputs[other].Contents() == contents(other, rank))
          << "rank " << rank << " has wrong bytes of " << other;
    }
    return status;
  });
}

}  // namespace

std::vector<Status> BackendGroup::Run(const Body& body) {
  const std::vector<int> local = ranks();
  std::vector<Status> statuses(local.size());
  std::latch all_there(static_cast<std::ptrdiff_t>(local.size()));
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < local.size(); ++i) {
    threads.emplace_back([&, i] {
      all_there.arrive_and_wait();
      statuses[i] = body(local[i], backend(local[i]));
    });
  }
  threads.clear();
  return statuses;
}

void BackendGroup::RunOk(const Body& body) {
  for (const Status& status : Run(body)) EXPECT_TRUE(status.ok()) << status.ToString();
}

void BackendGroup::Retune(const Tuning& tuning) {
  for (const int rank : ranks()) backend(rank).Retune(tuning);
}

void ExpectAllreduces(BackendGroup& group, const Conformance& conformance) {
  AllreduceCase test{.params = Params(DType::kFloat32, ReduceOp::kSum)};
  for (const std::size_t elements : SizesAround(conformance, sizeof(float))) {
    test.elements = elements;
    for (const Layout layout : {Layout{true, 1}, Layout{false, 1}, Layout{false, 30}}) {
      test.layout = layout;
      ++test.seed;
      ExpectAllreduce(group, conformance, test);
    }
  }
}

void ExpectEveryReduction(BackendGroup& group, const Conformance& conformance) {
  AllreduceCase test{.seed = 500};
  for (int type = 0; type < kDTypeCount; ++type) {
    for (const ReduceOp op : kElementwiseOps) {
      const auto dtype = static_cast<DType>(type);
      if (!IsReducible(dtype, op)) continue;
      ++test.seed;
      test.params = Params(dtype, op);
      test.elements = 61;
      test.layout = {};
      EXPECT_TRUE(!conformance.every_reduction ||
                  group.backend(group.ranks()[0]).Supports(test.params));
      ExpectAllreduce(group, conformance, test);
      test.elements = LargestEdge(conformance) / SizeOf(dtype) + 33;
      test.layout = {.in_place = test.seed % 2 == 0, .pieces = 9};
      ExpectAllreduce(group, conformance, test);
      if (IsFloat8(dtype)) continue;
      for (const auto& [prescale, postscale] : {std::pair{0.37, 1.9}, {0.37, 1.0}, {1.0, 1.9}}) {
        test.params = Params(dtype, op, prescale, postscale);
        test.layout = {.in_place = !test.layout.in_place};
        ExpectAllreduce(group, conformance, test);
        test.layout.in_place = !test.layout.in_place;
        ExpectAllreduce(group, conformance, test);
      }
    }
  }
}

void ExpectAbsences(BackendGroup& group, const Conformance& conformance) {
  const int size = group.size();
  if (size < 2) return;
  AllreduceCase test{.seed = 900};
  for (const RankSet& absent : {Ranks({0}), Ranks({size - 1}), RankSet::AllOf(size - 1)}) {
    test.absent = absent;
    for (const std::size_t elements :
         {std::size_t{0}, std::size_t{1}, std::size_t{129}, LargestEdge(conformance) / 4 + 5}) {
      test.elements = elements;
      for (const ReduceOp op : kElementwiseOps) {
        ++test.seed;
        test.params = Params(test.seed % 3 == 0 ? DType::kInt32 : DType::kFloat32, op);
        test.divisor = test.seed % 2 == 0 ? size - absent.count() : size;
        test.layout = {.in_place = test.seed % 4 < 2,
                       .pieces = 1 + static_cast<int>(test.seed % 5)};
        ExpectAllreduce(group, conformance, test);
      }
    }
  }
  test.absent = {};  // an absence is of one call only
  ExpectAllreduce(group, conformance, test);
}

void ExpectReducescatters(BackendGroup& group, const Conformance& conformance) {
  const auto size = static_cast<std::size_t>(group.size());
  std::uint64_t seed = 40;
  Random random(4);
  for (const std::size_t elements : SizesAround(conformance, sizeof(float))) {
    Sizes counts(size, elements);
    ExpectReducescatter(group, conformance, Params(DType::kFloat32, ReduceOp::kSum), counts, 3,
                        ++seed);
    for (std::size_t& count : counts) count = random() % (elements + 1);
    counts[random() % size] = 0;
    ExpectReducescatter(group, conformance, Params(DType::kFloat32, ReduceOp::kAverage, 0.5, 3),
                        counts, 1, ++seed);
  }
  for (int type = 0; type < kDTypeCount; ++type) {
    for (const ReduceOp op : kElementwiseOps) {
      const auto dtype = static_cast<DType>(type);
      if (!IsReducible(dtype, op)) continue;
      Sizes counts(size, 301);
      counts[0] = 7;
      ExpectReducescatter(group, conformance, Params(dtype, op), counts, 5, ++seed);
      if (IsFloat8(dtype)) continue;
      ExpectReducescatter(group, conformance, Params(dtype, op, 0.37, 1.9), counts, 1, ++seed);
    }
  }
}

void ExpectAllgathers(BackendGroup& group, const Conformance& conformance) {
  const auto size = static_cast<std::size_t>(group.size());
  Random random(11);
  std::uint64_t seed = 0;
  for (const std::size_t bytes : SizesAround(conformance, 1)) {
    Sizes sizes(size, bytes);
    seed += 3;
    ExpectAllgather(group, sizes, 1, seed % 2 == 0, seed);
    for (std::size_t& one : sizes) one = random() % (bytes + 1);
    ExpectAllgather(group, sizes, 1 + static_cast<int>(random() % 20), seed % 4 < 2, seed + 1);
    sizes.assign(size, 0);
    sizes[random() % size] = bytes;
    ExpectAllgather(group, sizes, 1, false, seed + 2);
  }
}

void ExpectBroadcasts(BackendGroup& group, const Conformance& conformance) {
  std::uint64_t seed = 0;
  for (const std::size_t bytes : SizesAround(conformance, 1)) {
    for (int root = 0; root < group.size(); ++root) {
      ++seed;
      const Layout layout{seed % 2 == 0, 1 + static_cast<int>(seed % 7)};
      ExpectBroadcast(group, root, bytes, layout, seed);
    }
  }
}

void ExpectAlltoalls(BackendGroup& group, const Conformance& conformance) {
  const auto size = static_cast<std::size_t>(group.size());
  Random random(8);
  std::uint64_t seed = 100;
  for (const std::size_t bytes : SizesAround(conformance, 1)) {
    std::vector<std::uint64_t> matrix(size * size, bytes);
    ExpectAlltoall(group, matrix, 1, ++seed);
    for (auto& entry : matrix) entry = random() % 3 == 0 ? 0 : random() % (bytes + 1);
    ExpectAlltoall(group, matrix, 1 + static_cast<int>(random() % 20), ++seed);
    matrix.assign(size * size, 0);
    matrix[random() % matrix.size()] = bytes;  // from one rank to one rank, perhaps itself
    ExpectAlltoall(group, matrix, 2, ++seed);
  }
}

void ExpectAdasum(BackendGroup& group, const Conformance& conformance) {
  // Orthogonal gradients are added: rank r brings 1 at every element i with i % size == r.
  const auto size = static_cast<std::size_t>(group.size());
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    const Sizes tensors = {3 * size, size, LargestEdge(conformance) / 4 / size * size};
    std::vector<float> values(std::accumulate(tensors.begin(), tensors.end(), std::size_t{0}));
    for (std::size_t i = static_cast<std::size_t>(rank); i < values.size(); i += size) {
      values[i] = 1;
    }
    const ByteStream stream({std::as_writable_bytes(std::span(values))});
    CollectiveCall call =
        AllreduceCall(Params(DType::kFloat32, ReduceOp::kAdasum), group.size(), stream, stream);
    for (const std::size_t count : tensors) call.tensor_bytes.push_back(count * sizeof(float));
    Status status = RunAdasum(backend, rank, call);
    EXPECT_EQ(values, std::vector<float>(values.size(), 1)) << "rank " << rank;
    return status;
  });
}

void ExpectMixedOps(BackendGroup& group, const Conformance& conformance, int operations) {
  const auto size = static_cast<std::size_t>(group.size());
  Random script(2026);
  for (int i = 0; i < operations && !testing::Test::HasFailure(); ++i) {
    const std::uint64_t seed = script();
    const std::size_t bytes =
        script() % 6 == 0 ? script() % (3 * LargestEdge(conformance)) : script() % 200;
    const int pieces = 1 + static_cast<int>(seed % 4);
    switch (script() % 5) {
      case 0:
        ExpectAllreduce(group, conformance,
                        {.params = Params(DType::kInt64, ReduceOp::kSum),
                         .elements = bytes / 8,
                         .layout = {seed % 2 == 0, pieces},
                         .absent = {},
                         .seed = seed % 1000});
        break;
      case 1:
        ExpectReducescatter(group, conformance, Params(DType::kInt32, ReduceOp::kMax),
                            Sizes(size, bytes / 4), pieces, seed % 1000);
        break;
      case 2:
        ExpectAllgather(group, Sizes(size, bytes), pieces, seed % 2 == 0, seed % 1000);
        break;
      case 3:
        ExpectBroadcast(group, static_cast<int>(seed % size), bytes, {seed % 2 == 0, pieces},
                        seed % 1000);
        break;
      default:
        ExpectAlltoall(group, std::vector<std::uint64_t>(size * size, bytes), pieces, seed % 1000);
    }
  }
}

void ExpectConformance(BackendGroup& group, const Conformance& conformance) {
  ExpectAllreduces(group, conformance);
  ExpectEveryReduction(group, conformance);
  ExpectAbsences(group, conformance);
  ExpectReducescatters(group, conformance);
  ExpectAllgathers(group, conformance);
  ExpectBroadcasts(group, conformance);
  ExpectAlltoalls(group, conformance);
  ExpectAdasum(group, conformance);
  ExpectMixedOps(group, conformance, 200);
}

}  // namespace hora
