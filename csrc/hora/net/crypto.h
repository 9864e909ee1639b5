// The four primitives of the handshake, as OpenSSL has them.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "hora/base/result.h"

namespace hora {

using Digest = std::array<std::byte, 32>;
using Nonce = std::array<std::byte, 32>;

// A key that is overwritten when its owner ends. Moves, never copies.
class SecretKey {
 public:
  SecretKey() = default;
  SecretKey(SecretKey&& other) noexcept;
  SecretKey& operator=(SecretKey&& other) noexcept;
  ~SecretKey();

  std::span<std::byte, 32> bytes() { return bytes_; }
  std::span<const std::byte, 32> bytes() const { return bytes_; }

 private:
  std::array<std::byte, 32> bytes_{};
};

// HMAC-SHA-256 with one key over many messages. One thread. kInternal when OpenSSL cannot.
class Authenticator {
 public:
  static Result<Authenticator> Open(const SecretKey& key);
  // Over the parts in a row, as one message.
  Result<Digest> Sign(std::span<const std::span<const std::byte>> parts);

 private:
  struct Free {
    void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
  };
  explicit Authenticator(EVP_MAC_CTX* context) : context_(context) {}

  std::unique_ptr<EVP_MAC_CTX, Free> context_;
};

// HKDF with SHA-256 (RFC 5869), extract and expand; the salt is not empty. Any thread.
Result<SecretKey> DeriveKey(std::span<const std::byte> secret, std::span<const std::byte> salt,
                            std::string_view purpose);
Result<Nonce> RandomNonce();
// In a time that depends on the length alone.
bool SameBytes(std::span<const std::byte> a, std::span<const std::byte> b);

// `what`, with the reasons that OpenSSL has queued on this thread, which it forgets.
Status CryptoFailed(std::string_view what);

}  // namespace hora
