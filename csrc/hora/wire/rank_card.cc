#include "hora/wire/rank_card.h"

#include <cstdint>
#include <vector>

#include "hora/base/format.h"
#include "hora/wire/rank_card_generated.h"

namespace hora {

std::string Encode(const RankCard& card) {
  flatbuffers::FlatBufferBuilder builder;
  const Tunables& from = card.tunables;
  const wire::card::Tunables tunables(from.tuning.fusion_threshold_bytes, from.tuning.chunk_bytes,
                                      from.tuning.small_allreduce_bytes, from.tuning.urgent_bytes,
                                      from.window_bytes, from.cache_capacity, from.tree_fan_out,
                                      from.join_divides_by_size);
  const auto version = builder.CreateString(card.version);
  const auto host = builder.CreateString(card.host);
  const auto address = builder.CreateString(card.address);
  const auto rendezvous = builder.CreateString(card.rendezvous);
  const auto engine = builder.CreateString(card.engine);
  const auto data_plane = builder.CreateString(card.data_plane);
  builder.Finish(wire::card::CreateRankCard(builder, version, card.local_rank, card.local_size,
                                            host, address, rendezvous, engine, data_plane,
                                            &tunables));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

Result<RankCard> DecodeRankCard(std::string_view bytes) {
  // FlatBuffers reads in place, which needs the alignment that the encoder assumed.
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(std::uint64_t) != 0) {
    const std::vector<char> aligned(bytes.begin(), bytes.end());
    return DecodeRankCard({aligned.data(), aligned.size()});
  }
  const auto* const data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  flatbuffers::Verifier verifier(data, bytes.size());
  if (bytes.empty() || !wire::card::VerifyRankCardBuffer(verifier)) {
    return Fail(Status(StatusCode::kInternal, "a rank's card cannot be read"));
  }
  const wire::card::RankCard& card = *wire::card::GetRankCard(data);
  if (card.local_rank() < 0 || card.local_rank() >= card.local_size()) {
    return Fail(Error(StatusCode::kInternal, "a rank's card says local rank {} of {}",
                      card.local_rank(), card.local_size()));
  }
  const wire::card::Tunables& from = *card.tunables();
  return RankCard{.version = card.version()->str(),
                  .local_rank = card.local_rank(),
                  .local_size = card.local_size(),
                  .host = card.host()->str(),
                  .address = card.address()->str(),
                  .rendezvous = card.rendezvous()->str(),
                  .engine = card.engine()->str(),
                  .data_plane = card.data_plane()->str(),
                  .tunables = {.tuning = {.fusion_threshold_bytes = from.fusion_threshold_bytes(),
                                          .chunk_bytes = from.chunk_bytes(),
                                          .small_allreduce_bytes = from.small_allreduce_bytes(),
                                          .urgent_bytes = from.urgent_bytes()},
                               .window_bytes = from.window_bytes(),
                               .cache_capacity = from.cache_capacity(),
                               .tree_fan_out = from.tree_fan_out(),
                               .join_divides_by_size = from.join_divides_by_size()}};
}

}  // namespace hora
