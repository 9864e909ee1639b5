#include "hora/collectives/gloo/gloo_group.h"

#include <gloo/allgatherv.h>
#include <gloo/allreduce.h>
#include <gloo/alltoallv.h>
#include <gloo/broadcast.h>
#include <gloo/config.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>
#include <gloo/types.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace hora::gloo_plugin {
namespace {

constexpr std::size_t kMaxValueBytes = 64u << 10;  // that hora's store takes

// Up to here a ring takes longer than the exchange with halves of the group.
constexpr std::uint64_t kSmallBytes = 64u << 10;

// Of two ranks: what is reduced while more is under way. A multiple of every element's size.
constexpr std::size_t kPairPieceBytes = 512u << 10;
constexpr std::size_t kPairPieces = 4;

// What Gloo's ranks tell each other goes through the store of the job.
class GroupStore final : public gloo::rendezvous::Store {
 public:
  explicit GroupStore(const hora_plugin_group& group) : group_(group) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    hora_plugin_error error{};
    if (group_.set(group_.store, key.c_str(), data.data(), data.size(), &error) != 0) {
      throw std::runtime_error(error.text);
    }
  }

  std::vector<char> get(const std::string& key) override {
    hora_plugin_error error{};
    std::vector<char> value(kMaxValueBytes);
    std::size_t bytes = value.size();
    if (group_.get(group_.store, key.c_str(), value.data(), &bytes, &error) != 0) {
      throw std::runtime_error(error.text);
    }
    value.resize(bytes);
    return value;
  }

  void wait(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) get(key);
  }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds&) override {
    wait(keys);  // the group's patience holds
  }

 private:
  const hora_plugin_group& group_;
};

std::shared_ptr<gloo::transport::Device> DeviceAt(const char* address) {
  gloo::transport::tcp::attr attributes;
  attributes.hostname = address;
  return gloo::transport::tcp::CreateDevice(attributes);
}

}  // namespace

plugin::Description GlooGroup::Describe() {
  constexpr int kVersion[] = {GLOO_VERSION_MAJOR, GLOO_VERSION_MINOR, GLOO_VERSION_PATCH};
  return {.text = "Gloo " + std::to_string(kVersion[0]) + "." + std::to_string(kVersion[1]) + "." +
                  std::to_string(kVersion[2]) + " over TCP (not encrypted)",
          .refusal = ""};
}

bool GlooGroup::Reduces(hora_plugin_element element) noexcept {
  return ReductionFor(element) != nullptr;
}

GlooGroup::GlooGroup(const hora_plugin_group& group)
    : timeout_(group.timeout_ms),
      context_(std::make_shared<gloo::rendezvous::Context>(group.rank, group.size)) {
  context_->setTimeout(timeout_);
  auto device = DeviceAt(group.bind_address);
  GroupStore store(group);
  context_->connectFullMesh(store, device);
}

GlooGroup::~GlooGroup() = default;

void GlooGroup::Abort() noexcept {
  if (aborted_.exchange(true)) return;
  try {
    context_->closeConnections();
  } catch (...) {  // those that are closed already
  }
}

std::uint32_t GlooGroup::NextTag() {
  if (aborted_) throw std::runtime_error("the group was aborted");
  return tag_++;
}

void GlooGroup::Allreduce(void* buffer, std::uint64_t count, hora_plugin_element element) {
  const std::size_t bytes = BytesOf(element);
  if (size() == 2 && bytes * count > kSmallBytes) {
    return AllreduceOfTwo({static_cast<std::byte*>(buffer), bytes * count}, element);
  }
  gloo::AllreduceOptions options(context_);
  // Gloo needs to know the size of an element, to cut between them.
  const auto set_output = [&]<class T>(T* elements) { options.setOutput(elements, count); };
  if (bytes == 1) set_output(static_cast<std::uint8_t*>(buffer));
  if (bytes == 4) set_output(static_cast<std::uint32_t*>(buffer));
  if (bytes == 8) set_output(static_cast<std::uint64_t*>(buffer));
  options.setReduceFunction(ReductionFor(element));
  using Algorithm = gloo::AllreduceOptions::Algorithm;
  options.setAlgorithm(bytes * count <= kSmallBytes ? Algorithm::BCUBE : Algorithm::RING);
  options.setTag(NextTag());
  gloo::allreduce(options);
}

void GlooGroup::AllreduceOfTwo(std::span<std::byte> buffer, hora_plugin_element element) {
  const Reduction reduce = ReductionFor(element);
  const std::size_t element_bytes = BytesOf(element);
  const int peer = 1 - context_->rank;
  const gloo::Slot slot = gloo::Slot::build(gloo::kAllreduceSlotPrefix, NextTag());
  incoming_.resize(kPairPieces * kPairPieceBytes);
  const auto out = context_->createUnboundBuffer(buffer.data(), buffer.size());
  const auto in = context_->createUnboundBuffer(incoming_.data(), incoming_.size());
  const std::size_t pieces = (buffer.size() + kPairPieceBytes - 1) / kPairPieceBytes;
  const auto piece_at = [&](std::size_t k) {
    const std::size_t begin = k * kPairPieceBytes;
    return buffer.subspan(begin, std::min(kPairPieceBytes, buffer.size() - begin));
  };
  const auto room_of = [](std::size_t k) { return k % kPairPieces * kPairPieceBytes; };
  const auto start = [&](std::size_t k) {
    in->recv(peer, slot, room_of(k), piece_at(k).size());
    out->send(peer, slot, k * kPairPieceBytes, piece_at(k).size());
  };
  for (std::size_t k = 0; k < std::min(pieces, kPairPieces); ++k) start(k);
  for (std::size_t k = 0; k < pieces; ++k) {
    // What is on its way must not change yet.
    if (!in->waitRecv(timeout_) || !out->waitSend(timeout_)) {
      throw std::runtime_error("the group was aborted");
    }
    const std::span<std::byte> piece = piece_at(k);
    reduce(piece.data(), piece.data(), incoming_.data() + room_of(k), piece.size() / element_bytes);
    if (k + kPairPieces < pieces) start(k + kPairPieces);
  }
}

void GlooGroup::Broadcast(void* buffer, std::uint64_t bytes, int root) {
  gloo::BroadcastOptions options(context_);
  options.setOutput(static_cast<std::uint8_t*>(buffer), bytes);
  options.setRoot(root);
  options.setTag(NextTag());
  gloo::broadcast(options);
}

void GlooGroup::Allgather(const void* input, void* output, const std::uint64_t* bytes_by_rank) {
  gloo::AllgathervOptions options(context_);
  const auto own = bytes_by_rank[context_->rank];
  // Gloo takes inputs as not const, but only reads them.
  options.setInput(static_cast<std::uint8_t*>(const_cast<void*>(input)), own);
  options.setOutput(static_cast<std::uint8_t*>(output),
                    std::vector<std::size_t>(bytes_by_rank, bytes_by_rank + size()));
  options.setTag(NextTag());
  gloo::allgatherv(options);
}

void GlooGroup::Alltoall(const void* input, const std::uint64_t* bytes_to, void* output,
                         const std::uint64_t* bytes_from) {
  gloo::AlltoallvOptions options(context_);
  options.setInput(static_cast<std::uint8_t*>(const_cast<void*>(input)),
                   std::vector<std::int64_t>(bytes_to, bytes_to + size()));
  options.setOutput(static_cast<std::uint8_t*>(output),
                    std::vector<std::int64_t>(bytes_from, bytes_from + size()));
  options.setTag(NextTag());
  gloo::alltoallv(options);
}

}  // namespace hora::gloo_plugin
