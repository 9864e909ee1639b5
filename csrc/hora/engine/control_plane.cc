#include "hora/engine/control_plane.h"

#include <algorithm>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/wire/codec.h"

namespace hora {

bool ControlPlane::NeedsAttention() const {
  return std::any_of(edges_.begin(), edges_.end(),
                     [](const Edge& edge) { return edge.link->NeedsAttention(); });
}

void ControlPlane::Arm() {
  for (Edge& edge : edges_) edge.link->Arm();
}

Status ControlPlane::Receive(Negotiator& negotiator, TimePoint now) {
  for (Edge& edge : edges_) {
    while (edge.link->Receive(frame_)) {
      Result<ControlMessage> message = Decode(frame_);
      if (!message) {
        return Error(StatusCode::kInternal,
                     "rank {} sent a control message that cannot be read: {}",
                     names_.Of(edge.neighbour), message.error().message());
      }
      negotiator.Receive(edge.neighbour, std::move(*message), now);
    }
    if (!edge.link->status().ok()) return edge.link->status();
  }
  return Status::Ok();
}

Status ControlPlane::Send(std::span<const NegotiatorActions::Outgoing> outgoing) {
  for (const auto& [neighbour, message, urgent] : outgoing) {
    const auto edge = std::find_if(edges_.begin(), edges_.end(),
                                   [to = neighbour](const Edge& e) { return e.neighbour == to; });
    Check(edge != edges_.end(), "the negotiator speaks to tree neighbours only");
    if (Status status = Encode(message, frame_); !status.ok()) return status;
    if (Status status = edge->link->Send(frame_, urgent); !status.ok()) return status;
  }
  return Status::Ok();
}

bool ControlPlane::FlushToChildren() {
  bool flushed = true;
  for (Edge& edge : edges_) flushed = (!edge.to_child || edge.link->Flush()) && flushed;
  return flushed;
}

bool ControlPlane::Flush() {
  bool flushed = true;
  for (Edge& edge : edges_) flushed = edge.link->Flush() && flushed;
  return flushed;
}

}  // namespace hora
