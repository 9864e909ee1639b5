// kChecksum: [length, checksum of the payload, number, checksum of the three] [payload].
// The payload goes straight between the caller's memory and the socket.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

#include "hora/base/format.h"
#include "hora/kernels/crc32c.h"
#include "hora/net/byte_order.h"
#include "hora/net/records.h"
#include "hora/net/socket_io.h"

namespace hora {
namespace {

// Half of a usual L2 cache: the kernel's copy and the checksum see the same lines.
constexpr std::size_t kMaxPayload = 256u << 10;
using Header = std::array<std::byte, 16>;

struct Announced {
  std::uint32_t length = 0;
  std::uint32_t checksum = 0;
  std::uint32_t number = 0;
};

Header EncodeHeader(const Announced& record) {
  Header header;
  const std::span<std::byte> bytes(header);
  StoreLittle(bytes, record.length);
  StoreLittle(bytes.subspan(4), record.checksum);
  StoreLittle(bytes.subspan(8), record.number);
  StoreLittle(bytes.subspan(12), Crc32c(bytes.first(12)));
  return header;
}

class ChecksumWriter {
 public:
  Result<std::size_t> Write(int fd, std::span<const std::byte> bytes) {
    std::size_t taken = 0;
    while (!bytes.empty()) {
      if (payload_left_ == 0) Begin(bytes.first(std::min(bytes.size(), kMaxPayload)));
      const auto payload = bytes.first(std::min(bytes.size(), payload_left_));
      const std::array<iovec, 2> pieces{
          iovec{header_.data() + header_.size() - header_left_, header_left_},
          iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
      Result<std::size_t> sent = SendSome(fd, std::span(pieces).subspan(header_left_ == 0 ? 1 : 0));
      // What was taken before has its own answer; the error stays with the socket.
      if (!sent && taken == 0) return sent;
      if (!sent || *sent == 0) break;
      const std::size_t of_header = std::min(*sent, header_left_);
      header_left_ -= of_header;
      const std::size_t of_payload = *sent - of_header;
      payload_left_ -= of_payload;
      bytes = bytes.subspan(of_payload);
      taken += of_payload;
    }
    return taken;
  }

 private:
  void Begin(std::span<const std::byte> payload) {
    header_ = EncodeHeader({.length = static_cast<std::uint32_t>(payload.size()),
                            .checksum = Crc32c(payload),
                            .number = number_++});
    header_left_ = header_.size();
    payload_left_ = payload.size();
  }

  Header header_{};
  std::size_t header_left_ = 0;
  std::size_t payload_left_ = 0;  // of the record that the header has promised
  std::uint32_t number_ = 0;
};

class ChecksumReader {
 public:
  Result<std::size_t> Read(int fd, std::span<std::byte> into) {
    std::size_t delivered = 0;
    while (!into.empty() && failure_.ok()) {
      const auto payload = into.first(std::min(into.size(), payload_left_));
      // The next header comes along with the end of a payload.
      const bool header_too = payload.size() == payload_left_;
      const std::array<iovec, 2> pieces{
          iovec{payload.data(), payload.size()},
          iovec{header_.data() + header_held_, header_.size() - header_held_}};
      Result<std::size_t> got = ReceiveSome(
          fd, std::span(pieces).subspan(payload.empty() ? 1 : 0,
                                        (payload.empty() ? 0 : 1) + (header_too ? 1 : 0)));
      if (!got && delivered == 0) return got;
      if (!got || *got == 0) break;
      const std::size_t of_payload = std::min(*got, payload.size());
      if (Accept(payload.first(of_payload), *got - of_payload)) {
        delivered += of_payload;
        into = into.subspan(of_payload);
      }
      if (!failure_.ok()) shutdown(fd, SHUT_RDWR);
    }
    // What came before the damage is good.
    if (delivered == 0 && !failure_.ok()) return Fail(failure_);
    return delivered;
  }

 private:
  // Whether the payload may be delivered; the header after it can be wrong all the same.
  bool Accept(std::span<const std::byte> payload, std::size_t of_header) {
    if (!payload.empty()) {
      running_ = Crc32c(payload, running_);
      payload_left_ -= payload.size();
      if (payload_left_ == 0 && running_ != announced_.checksum) {
        failure_ = Error(StatusCode::kPeerFailed,
                         "record {} was damaged on its way: its checksum is {:08x}, not {:08x}",
                         announced_.number, running_, announced_.checksum);
        return false;
      }
    }
    header_held_ += of_header;
    if (header_held_ == header_.size()) BeginRecord();
    return true;
  }

  void BeginRecord() {
    const std::span<const std::byte> bytes(header_);
    announced_ = {.length = LoadLittle<std::uint32_t>(bytes),
                  .checksum = LoadLittle<std::uint32_t>(bytes.subspan(4)),
                  .number = LoadLittle<std::uint32_t>(bytes.subspan(8))};
    if (Crc32c(bytes.first(12)) != LoadLittle<std::uint32_t>(bytes.subspan(12)) ||
        announced_.number != number_ || announced_.length == 0 || announced_.length > kMaxPayload) {
      failure_ = Error(StatusCode::kPeerFailed,
                       "the header of record {} was damaged on its way: number {}, {} bytes",
                       number_, announced_.number, announced_.length);
      return;
    }
    ++number_;
    header_held_ = 0;
    payload_left_ = announced_.length;
    running_ = 0;
  }

  Header header_{};
  std::size_t header_held_ = 0;
  Announced announced_;
  std::size_t payload_left_ = 0;
  std::uint32_t running_ = 0;
  std::uint32_t number_ = 0;  // of the next record
  Status failure_;
};

class ChecksumRecords final : public Channel::Records {
 public:
  Result<std::size_t> Write(int fd, std::span<const std::byte> bytes) override {
    return writer_.Write(fd, bytes);
  }
  Result<std::size_t> Read(int fd, std::span<std::byte> into) override {
    return reader_.Read(fd, into);
  }
  // What was taken has been sent.
  Result<bool> Flush(int /*fd*/) override { return true; }
  bool HasUnread() const override { return false; }

 private:
  ChecksumWriter writer_;
  ChecksumReader reader_;
};

}  // namespace

std::unique_ptr<Channel::Records> MakeChecksumRecords() {
  return std::make_unique<ChecksumRecords>();
}

}  // namespace hora
