#include "hora/collectives/tcp/tcp_backend.h"

#include <utility>

#include "hora/collectives/alone.h"
#include "hora/collectives/check_call.h"
#include "hora/collectives/tcp/algorithms.h"

namespace hora {

class TcpBackend::State {
 public:
  State(std::vector<std::optional<Channel>> channels, TcpBackendOptions options)
      : exchange_(std::move(channels), std::move(options)) {}

  const TcpExchange& exchange() const { return exchange_; }

  Status Run(CollectiveCall& call) {
    exchange_.Begin(ToString(call.params.kind));
    switch (call.params.kind) {
      case OpKind::kAllreduce:
        return TcpAllreduce(exchange_, staging_, call);
      case OpKind::kReducescatter:
        return TcpReducescatter(exchange_, staging_, call);
      case OpKind::kAllgather:
        return TcpAllgather(exchange_, call);
      case OpKind::kAlltoall:
        return TcpAlltoall(exchange_, call);
      case OpKind::kBroadcast:
        return TcpBroadcast(exchange_, call);
      case OpKind::kBarrier:
      case OpKind::kJoin:
        return Status::Ok();  // to have agreed on it is all there is
    }
    return Status::Ok();
  }

 private:
  TcpExchange exchange_;
  TcpStaging staging_;
};

TcpBackend::TcpBackend(std::vector<std::optional<Channel>> channels, TcpBackendOptions options)
    : state_(std::make_unique<State>(std::move(channels), std::move(options))) {}

TcpBackend::~TcpBackend() = default;

bool TcpBackend::Supports(const OpParams& params) const { return CpuCan(params); }

void TcpBackend::Retune(const Tuning& /*tuning*/) {}  // what it has is of shared memory

std::uint64_t TcpBackend::sent_bytes() const { return state_->exchange().sent_bytes(); }

Status TcpBackend::Execute(CollectiveCall& call) {
  if (!failure_.ok()) return failure_;
  CheckCall(call, state_->exchange().rank(), state_->exchange().size());
  if (call.size == 1) {
    RunAlone(call);
    return Status::Ok();
  }
  failure_ = state_->Run(call);
  return failure_;
}

}  // namespace hora
