// What is said in a handshake: messages of fixed sizes, as bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "hora/base/result.h"
#include "hora/net/crypto.h"
#include "hora/net/handshake.h"

namespace hora {

// [magic 8] [version 4] [protection 1] [role 1] [job id's length 1] [0] [job id 64] [nonce 32]
// [tag 16]. Magic, version and tag keep their place in every version, so that members of one job
// can tell each other that their versions differ. The tag is an HMAC over the rest: strangers get
// no further than this. It may have been recorded, so it proves nothing yet.
inline constexpr std::size_t kHelloBytes = 128;
inline constexpr std::size_t kMaxJobIdBytes = 64;
using HelloBytes = std::array<std::byte, kHelloBytes>;

struct NetworkHello {
  std::uint32_t version = kNetworkVersion;
  Protection protection = Protection::kTls;
  Handshake::Role role = Handshake::Role::kDialler;
  std::string job_id;
  Nonce nonce{};
};

// kInvalidArgument when the job id is empty or too long.
Result<HelloBytes> EncodeHello(const NetworkHello& hello, const JobKey& key);

// True while these first bytes may become a hello.
bool MayBeHello(std::span<const std::byte> first_bytes);

// What `theirs` says, if it comes from the opposite role in this job with our version and
// protection; the errors are those of Handshake::failure, without the other end's name.
Result<NetworkHello> CheckHello(const HelloBytes& theirs, const NetworkHello& ours,
                                const JobKey& key);

// [generation 8] [rank 4] [process set 4] [stripe 2] [kind 1] [lane 1] [0 0 0 0]
inline constexpr std::size_t kIntroductionBytes = 24;
using IntroductionBytes = std::array<std::byte, kIntroductionBytes>;

IntroductionBytes EncodeIntroduction(const Introduction& introduction);
Result<Introduction> DecodeIntroduction(const IntroductionBytes& bytes);

std::string_view ToString(Protection protection);  // as HORA_DATA_PLANE has it; else "mac"

}  // namespace hora
