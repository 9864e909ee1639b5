// kMac: [length] [payload] [HMAC-SHA-256 over number, length and payload].
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "hora/base/format.h"
#include "hora/net/byte_order.h"
#include "hora/net/fixed_buffer.h"
#include "hora/net/records.h"

namespace hora {
namespace {

constexpr std::size_t kMaxPayload = 16u << 10;
constexpr std::size_t kLengthBytes = 4;
constexpr std::size_t kOverhead = kLengthBytes + sizeof(Digest);
constexpr std::size_t kBufferedRecords = 4;
constexpr std::size_t kBufferBytes = kBufferedRecords * (kMaxPayload + kOverhead);

// Signs records of one direction in their order: one that is repeated, left out or moved is wrong.
class RecordSigner {
 public:
  explicit RecordSigner(Authenticator authenticator) : authenticator_(std::move(authenticator)) {}

  Result<Digest> Sign(std::span<const std::byte> length_and_payload) {
    std::array<std::byte, sizeof(number_)> number;
    StoreLittle(std::span(number), number_);
    const std::array<std::span<const std::byte>, 2> parts{number, length_and_payload};
    return authenticator_.Sign(parts);
  }
  void Next() { ++number_; }
  std::uint64_t number() const { return number_; }

 private:
  Authenticator authenticator_;
  std::uint64_t number_ = 0;
};

class MacRecords final : public Channel::Records {
 public:
  MacRecords(Authenticator sends, Authenticator receives)
      : out_signer_(std::move(sends)), in_signer_(std::move(receives)) {}

  Result<std::size_t> Write(int fd, std::span<const std::byte> bytes) override {
    std::size_t taken = 0;
    while (!bytes.empty()) {
      while (!bytes.empty() && out_.room() >= kMaxPayload + kOverhead) {
        const auto payload = bytes.first(std::min(bytes.size(), kMaxPayload));
        if (Status status = Append(payload); !status.ok()) return Fail(std::move(status));
        bytes = bytes.subspan(payload.size());
        taken += payload.size();
      }
      Result<bool> sent = out_.SendTo(fd);
      if (!sent && taken == 0) return Fail(std::move(sent.error()));
      if (!sent || !*sent) break;
    }
    return taken;
  }

  Result<std::size_t> Read(int fd, std::span<std::byte> into) override {
    std::size_t delivered = 0;
    while (!into.empty()) {
      if (proved_left_ > 0) {
        const std::size_t count = Deliver(into);
        delivered += count;
        into = into.subspan(count);
        continue;
      }
      Status status = HoldsRecord() ? Prove() : Receive(fd);
      if (!status.ok()) {
        if (delivered > 0) break;  // the next call fails in the same way
        shutdown(fd, SHUT_RDWR);
        return Fail(std::move(status));
      }
      if (proved_left_ == 0 && !HoldsRecord() && drained_) break;
    }
    return delivered;
  }

  Result<bool> Flush(int fd) override { return out_.SendTo(fd); }
  bool HasUnread() const override { return proved_left_ > 0 || HoldsRecord(); }

 private:
  Status Append(std::span<const std::byte> payload) {
    const std::span<std::byte> record = out_.Room();
    StoreLittle(record, static_cast<std::uint32_t>(payload.size()));
    std::memcpy(record.data() + kLengthBytes, payload.data(), payload.size());
    const std::size_t signed_bytes = kLengthBytes + payload.size();
    const Result<Digest> digest = out_signer_.Sign(record.first(signed_bytes));
    if (!digest) return digest.error();
    std::memcpy(record.data() + signed_bytes, digest->data(), digest->size());
    out_.Add(signed_bytes + digest->size());
    out_signer_.Next();
    return Status::Ok();
  }

  // Also one whose length is wrong, which Prove reports.
  bool HoldsRecord() const {
    const auto held = in_.held();
    if (held.size() < kLengthBytes) return false;
    const std::size_t length = LoadLittle<std::uint32_t>(held);
    return length == 0 || length > kMaxPayload || held.size() >= length + kOverhead;
  }

  Status Prove() {
    const auto held = in_.held();
    const std::size_t length = LoadLittle<std::uint32_t>(held);
    if (length == 0 || length > kMaxPayload) {
      return Error(StatusCode::kPeerFailed, "record {} says that it has {} bytes; 1 to {} may be",
                   in_signer_.number(), length, kMaxPayload);
    }
    const Result<Digest> digest = in_signer_.Sign(held.first(kLengthBytes + length));
    if (!digest) return digest.error();
    if (!SameBytes(*digest, held.subspan(kLengthBytes + length, sizeof(Digest)))) {
      return Error(StatusCode::kPeerFailed,
                   "record {} is not what a member of the job sent: its signature is wrong",
                   in_signer_.number());
    }
    in_signer_.Next();
    in_.Drop(kLengthBytes);
    proved_left_ = length;
    return Status::Ok();
  }

  std::size_t Deliver(std::span<std::byte> into) {
    const std::size_t count = std::min(into.size(), proved_left_);
    std::memcpy(into.data(), in_.held().data(), count);
    proved_left_ -= count;
    in_.Drop(count + (proved_left_ == 0 ? sizeof(Digest) : 0));
    return count;
  }

  Status Receive(int fd) {
    Result<std::size_t> got = ReceiveSome(fd, in_.Room());
    if (!got) return std::move(got.error());
    in_.Add(*got);
    drained_ = *got == 0;
    return Status::Ok();
  }

  RecordSigner out_signer_;
  FixedBuffer out_{kBufferBytes};

  RecordSigner in_signer_;
  FixedBuffer in_{kBufferBytes};
  std::size_t proved_left_ = 0;  // of the payload at the front of in_
  bool drained_ = false;         // the socket had nothing
};

}  // namespace

Result<std::unique_ptr<Channel::Records>> MakeMacRecords(const RecordKeys& keys) {
  Result<Authenticator> sends = Authenticator::Open(keys.sends);
  if (!sends) return Fail(std::move(sends.error()));
  Result<Authenticator> receives = Authenticator::Open(keys.receives);
  if (!receives) return Fail(std::move(receives.error()));
  return std::make_unique<MacRecords>(std::move(*sends), std::move(*receives));
}

}  // namespace hora
