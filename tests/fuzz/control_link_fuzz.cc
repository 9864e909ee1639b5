// What the first rank of another host says on a link of the control tree, cut into frames.
#include "fuzz_input.h"
#include "hora/control/tcp_link.h"

namespace {

std::shared_ptr<hora::PeerNetwork> Network() {
  static const std::shared_ptr<hora::PeerNetwork> network = [] {
    auto opened = hora::PeerNetwork::Open(
        {.bind = *hora::SocketAddress::Parse("127.0.0.1:0"), .credentials = {.job_id = "fuzz"}});
    hora::fuzz::Require(opened.has_value());
    return std::shared_ptr<hora::PeerNetwork>(std::move(*opened));
  }();
  return network;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  const fuzz::Input input(data, size);
  auto [member, own] = fuzz::ChannelPair(Protection::kChecksum);
  fuzz::SayAndLeave(std::move(member), input.rest());
  TcpLink link(std::move(own), 1, Network(), [] {});
  std::vector<std::byte> frame;
  std::size_t bytes = 0;
  while (link.Receive(frame)) {
    bytes += sizeof(std::uint32_t) + frame.size();
    fuzz::Require(bytes <= size);
  }
  // That the other end has left is no error; a length that is not allowed is.
  fuzz::Require(link.status().ok() || link.status().code() == StatusCode::kInternal);
  fuzz::Require(!link.NeedsAttention());
  return 0;
}
