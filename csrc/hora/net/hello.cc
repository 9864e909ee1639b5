#include "hora/net/hello.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include "hora/base/format.h"
#include "hora/net/byte_order.h"

namespace hora {
namespace {

constexpr std::array<char, 8> kMagic{'h', 'o', 'r', 'a', 'n', 'e', 't', '\0'};
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kProtectionAt = 12;
constexpr std::size_t kRoleAt = 13;
constexpr std::size_t kIdLengthAt = 14;
constexpr std::size_t kIdAt = 16;
constexpr std::size_t kNonceAt = kIdAt + kMaxJobIdBytes;
constexpr std::size_t kTagAt = kNonceAt + sizeof(Nonce);
constexpr std::size_t kTagBytes = kHelloBytes - kTagAt;
static_assert(kTagBytes == 16);

Result<std::array<std::byte, kTagBytes>> TagOf(const HelloBytes& hello, const JobKey& key) {
  const Result<SecretKey> tag_key =
      DeriveKey(key.bytes(), std::as_bytes(std::span(kMagic)), "hora hello");
  if (!tag_key) return Fail(tag_key.error());
  Result<Authenticator> authenticator = Authenticator::Open(*tag_key);
  if (!authenticator) return Fail(authenticator.error());
  const std::array<std::span<const std::byte>, 1> parts{std::span(hello).first(kTagAt)};
  const Result<Digest> digest = authenticator->Sign(parts);
  if (!digest) return Fail(digest.error());
  std::array<std::byte, kTagBytes> tag;
  std::copy_n(digest->begin(), tag.size(), tag.begin());
  return tag;
}

// Strangers choose these bytes: what ends up in a message is harmless to a terminal.
std::string JobIdOf(const HelloBytes& hello) {
  const auto length = std::min(std::to_integer<std::size_t>(hello[kIdLengthAt]), kMaxJobIdBytes);
  std::string id(length, '\0');
  std::transform(hello.begin() + kIdAt, hello.begin() + kIdAt + static_cast<std::ptrdiff_t>(length),
                 id.begin(), [](std::byte byte) {
                   const int character = std::to_integer<unsigned char>(byte);
                   return static_cast<char>(
                       character < 0x7f && std::isprint(character) != 0 ? character : '?');
                 });
  return id;
}

Status Stranger(const std::string& theirs, const std::string& ours) {
  constexpr std::string_view kHint =
      "if a secret file was given, it must be the same on all hosts (--secret-file)";
  if (theirs == ours) {
    return Error(StatusCode::kPeerFailed, "names job '{}', but does not have its key; {}", ours,
                 kHint);
  }
  return Error(StatusCode::kPeerFailed, "belongs to job '{}', this process to job '{}'; {}", theirs,
               ours, kHint);
}

}  // namespace

std::string_view ToString(Protection protection) {
  switch (protection) {
    case Protection::kTls:
      return "tls";
    case Protection::kMac:
      return "mac";
    case Protection::kChecksum:
      return "auth";
  }
  return "unknown";
}

Result<HelloBytes> EncodeHello(const NetworkHello& hello, const JobKey& key) {
  if (hello.job_id.empty() || hello.job_id.size() > kMaxJobIdBytes) {
    return Fail(Error(StatusCode::kInvalidArgument, "a job id has 1 to {} bytes, not {}",
                      kMaxJobIdBytes, hello.job_id.size()));
  }
  HelloBytes bytes{};
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  StoreLittle(std::span(bytes).subspan(kVersionAt), hello.version);
  bytes[kProtectionAt] = static_cast<std::byte>(hello.protection);
  bytes[kRoleAt] = static_cast<std::byte>(hello.role);
  bytes[kIdLengthAt] = static_cast<std::byte>(hello.job_id.size());
  std::memcpy(bytes.data() + kIdAt, hello.job_id.data(), hello.job_id.size());
  std::copy(hello.nonce.begin(), hello.nonce.end(), bytes.begin() + kNonceAt);
  const auto tag = TagOf(bytes, key);
  if (!tag) return Fail(tag.error());
  std::copy(tag->begin(), tag->end(), bytes.begin() + kTagAt);
  return bytes;
}

bool MayBeHello(std::span<const std::byte> first_bytes) {
  const std::size_t count = std::min(first_bytes.size(), kMagic.size());
  return std::memcmp(first_bytes.data(), kMagic.data(), count) == 0;
}

Result<NetworkHello> CheckHello(const HelloBytes& theirs, const NetworkHello& ours,
                                const JobKey& key) {
  if (!MayBeHello(theirs)) {
    return Fail(Status(StatusCode::kPeerFailed, "speaks another protocol than hora's"));
  }
  const auto tag = TagOf(theirs, key);
  if (!tag) return Fail(tag.error());
  NetworkHello hello{.version = LoadLittle<std::uint32_t>(std::span(theirs).subspan(kVersionAt)),
                     .protection = static_cast<Protection>(theirs[kProtectionAt]),
                     .role = static_cast<Handshake::Role>(theirs[kRoleAt]),
                     .job_id = JobIdOf(theirs),
                     .nonce = {}};
  std::copy_n(theirs.begin() + kNonceAt, hello.nonce.size(), hello.nonce.begin());
  if (!SameBytes(*tag, std::span(theirs).subspan(kTagAt))) {
    return Fail(Stranger(hello.job_id, ours.job_id));
  }
  if (hello.version != ours.version) {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "speaks version {} of the network protocol, this process version {}; install "
                      "the same version of hora on every host",
                      hello.version, ours.version));
  }
  if (hello.job_id != ours.job_id) return Fail(Stranger(hello.job_id, ours.job_id));
  if (hello.role == ours.role || hello.nonce == ours.nonce) {
    return Fail(Status(StatusCode::kPeerFailed, "repeats what this process, or one like it, says"));
  }
  if (hello.protection != ours.protection) {
    // Checksums are of the data plane alone, MACs of the control plane alone.
    const bool is_of_data =
        hello.protection == Protection::kChecksum || ours.protection == Protection::kChecksum;
    return Fail(Error(StatusCode::kInvalidArgument,
                      "wants the protection '{}', this process '{}'; set {} to the same value on "
                      "every host",
                      ToString(hello.protection), ToString(ours.protection),
                      is_of_data ? "HORA_DATA_PLANE" : "HORA_CONTROL_PLANE"));
  }
  return hello;
}

IntroductionBytes EncodeIntroduction(const Introduction& introduction) {
  IntroductionBytes encoded{};
  const std::span<std::byte> bytes(encoded);
  StoreLittle(bytes, introduction.generation);
  StoreLittle(bytes.subspan(8), introduction.rank);
  StoreLittle(bytes.subspan(12), introduction.purpose.process_set);
  StoreLittle(bytes.subspan(16), introduction.purpose.stripe);
  bytes[18] = static_cast<std::byte>(introduction.purpose.kind);
  bytes[19] = static_cast<std::byte>(introduction.purpose.lane);
  return encoded;
}

Result<Introduction> DecodeIntroduction(const IntroductionBytes& encoded) {
  const std::span<const std::byte> bytes(encoded);
  const auto kind = std::to_integer<std::uint8_t>(bytes[18]);
  const Introduction introduction{
      .rank = LoadLittle<std::int32_t>(bytes.subspan(8)),
      .generation = LoadLittle<std::uint64_t>(bytes),
      .purpose = {.kind = static_cast<Purpose::Kind>(kind),
                  .lane = std::to_integer<std::uint8_t>(bytes[19]),
                  .stripe = LoadLittle<std::uint16_t>(bytes.subspan(16)),
                  .process_set = LoadLittle<std::int32_t>(bytes.subspan(12))}};
  const bool known = kind >= static_cast<std::uint8_t>(Purpose::Kind::kStore) &&
                     kind <= static_cast<std::uint8_t>(Purpose::Kind::kData);
  if (!known || introduction.rank < -1 || LoadLittle<std::uint32_t>(bytes.subspan(20)) != 0) {
    return Fail(Error(StatusCode::kPeerFailed,
                      "introduces itself as rank {} for a purpose of kind {}, which is none",
                      introduction.rank, kind));
  }
  return introduction;
}

}  // namespace hora
