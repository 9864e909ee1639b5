#include "hora/net/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <string>

#include "hora/base/format.h"

namespace hora {
namespace {

const unsigned char* Raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

unsigned char* Raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }

OSSL_PARAM TextParameter(const char* name, const char* value) {
  return OSSL_PARAM_construct_utf8_string(name, const_cast<char*>(value), 0);
}

OSSL_PARAM BytesParameter(const char* name, std::span<const std::byte> value) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<std::byte*>(value.data()),
                                           value.size());
}

}  // namespace

SecretKey::SecretKey(SecretKey&& other) noexcept : bytes_(other.bytes_) {
  OPENSSL_cleanse(other.bytes_.data(), other.bytes_.size());
}

SecretKey& SecretKey::operator=(SecretKey&& other) noexcept {
  if (this == &other) return *this;
  bytes_ = other.bytes_;
  OPENSSL_cleanse(other.bytes_.data(), other.bytes_.size());
  return *this;
}

SecretKey::~SecretKey() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

Result<Authenticator> Authenticator::Open(const SecretKey& key) {
  EVP_MAC* const method = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  if (method == nullptr) return Fail(CryptoFailed("HMAC"));
  Authenticator made(EVP_MAC_CTX_new(method));
  EVP_MAC_free(method);
  const OSSL_PARAM parameters[] = {TextParameter(OSSL_MAC_PARAM_DIGEST, "SHA256"),
                                   OSSL_PARAM_construct_end()};
  if (made.context_ == nullptr || EVP_MAC_init(made.context_.get(), Raw(key.bytes().data()),
                                               key.bytes().size(), parameters) != 1) {
    return Fail(CryptoFailed("HMAC-SHA-256"));
  }
  return made;
}

Result<Digest> Authenticator::Sign(std::span<const std::span<const std::byte>> parts) {
  Digest digest;
  std::size_t written = 0;
  // Without a key: begins anew with the one that it has.
  bool good = EVP_MAC_init(context_.get(), nullptr, 0, nullptr) == 1;
  for (const auto part : parts) {
    good = good && EVP_MAC_update(context_.get(), Raw(part.data()), part.size()) == 1;
  }
  good = good && EVP_MAC_final(context_.get(), Raw(digest.data()), &written, digest.size()) == 1 &&
         written == digest.size();
  if (!good) return Fail(CryptoFailed("HMAC-SHA-256"));
  return digest;
}

Result<SecretKey> DeriveKey(std::span<const std::byte> secret, std::span<const std::byte> salt,
                            std::string_view purpose) {
  EVP_KDF* const method = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  if (method == nullptr) return Fail(CryptoFailed("HKDF"));
  EVP_KDF_CTX* const context = EVP_KDF_CTX_new(method);
  EVP_KDF_free(method);
  const OSSL_PARAM parameters[] = {
      TextParameter(OSSL_KDF_PARAM_DIGEST, "SHA256"), BytesParameter(OSSL_KDF_PARAM_KEY, secret),
      BytesParameter(OSSL_KDF_PARAM_SALT, salt),
      BytesParameter(OSSL_KDF_PARAM_INFO, std::as_bytes(std::span(purpose))),
      OSSL_PARAM_construct_end()};
  SecretKey derived;
  const bool good = context != nullptr && EVP_KDF_derive(context, Raw(derived.bytes().data()),
                                                         derived.bytes().size(), parameters) == 1;
  EVP_KDF_CTX_free(context);
  if (!good) return Fail(CryptoFailed("HKDF with SHA-256"));
  return derived;
}

Result<Nonce> RandomNonce() {
  Nonce nonce;
  if (RAND_bytes(Raw(nonce.data()), static_cast<int>(nonce.size())) != 1) {
    return Fail(CryptoFailed("random bytes"));
  }
  return nonce;
}

bool SameBytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Status CryptoFailed(std::string_view what) {
  std::string reasons;
  while (const unsigned long code = ERR_get_error()) {
    const char* const reason = ERR_reason_error_string(code);
    if (!reasons.empty()) reasons += "; ";
    reasons += reason != nullptr ? reason : fmt::format("error {:#x}", code);
  }
  return Error(StatusCode::kInternal, "OpenSSL: {}: {}", what,
               reasons.empty() ? "no reason given" : reasons);
}

}  // namespace hora
