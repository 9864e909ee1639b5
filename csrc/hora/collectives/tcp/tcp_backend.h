// Collectives over authenticated TCP channels: flat, every rank with every other.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "hora/base/wait.h"
#include "hora/collectives/collective_backend.h"
#include "hora/collectives/interruption.h"
#include "hora/net/channel.h"
#include "hora/tensor/rank_names.h"

namespace hora {

struct TcpBackendOptions {
  int rank = 0;
  RankNames names;                                // of the group's ranks, for errors
  WaitPolicy wait;                                // before it sleeps in poll(2)
  Duration patience = std::chrono::seconds(300);  // without a byte from a peer that owes one
  std::function<Status()> lost;                   // not OK: why the group has ended; may be empty
  Interruption interruption;                      // may be empty
};

// Owns the channels. Small reductions gather all operands on every rank (at once, or doubling what
// each rank has); large ones meet slice by slice at one rank each, or travel around a ring where
// there are many ranks and no rounding is added by it. Sums are formed in an order that depends on
// ranks and sizes only, so all ranks get the same bits on every run. Pieces are moved and reduced
// while others are under way; no buffer grows with the size of the message.
//
// One thread at a time; Execute blocks as its base says, looks at `lost` at least every 10 ms, and
// gives way between pieces and while it waits. After a failure the streams are out of step, so
// every later call returns the same status.
class TcpBackend final : public CollectiveBackend {
 public:
  // By rank; this rank's own is empty.
  TcpBackend(std::vector<std::optional<Channel>> channels, TcpBackendOptions options);
  ~TcpBackend() override;

  std::string_view name() const override { return "tcp"; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;

  // By this rank, through its life; without what protects them.
  std::uint64_t sent_bytes() const;

 private:
  class State;  // bytes under way to and from the peers, and staging
  std::unique_ptr<State> state_;
  Status failure_;
};

}  // namespace hora
