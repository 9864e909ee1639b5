// TLS 1.3 with a pre-shared key over a non-blocking socket.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <mutex>

#include "hora/net/fixed_buffer.h"
#include "hora/net/handshake.h"
#include "hora/net/records.h"

namespace hora {

// First a handshake, on one thread, then the records of a channel. A lock makes the one state of
// OpenSSL fit for a writing and a reading thread; it is held while bytes are ciphered, never while
// anybody waits. Both ends have proved the key when the handshake is done: without certificates,
// TLS has no other way to succeed.
class TlsSession final : public Channel::Records {
 public:
  static Result<std::unique_ptr<TlsSession>> Open(Handshake::Role role, SecretKey key);
  ~TlsSession() override;

  Result<Handshake::Progress> Advance(int fd);

  Result<std::size_t> Write(int fd, std::span<const std::byte> bytes) override;
  Result<std::size_t> Read(int fd, std::span<std::byte> into) override;
  Result<bool> Flush(int fd) override;
  bool HasUnread() const override;

 private:
  struct Callbacks;  // OpenSSL's way in
  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };

  explicit TlsSession(SecretKey key);
  Status Encrypt(std::span<const std::byte> bytes);
  Status Broken(std::string_view doing);

  mutable std::mutex mutex_;  // over all that follows
  std::unique_ptr<SSL, Free> ssl_;
  SecretKey key_;              // of the handshake
  FixedBuffer out_;            // records on their way
  int fd_ = -1;                // of the call that is under way
  Status read_error_;          // of the socket
  bool drained_ = true;        // the socket had nothing, and what is buffered is no whole record
  std::uint64_t records_ = 0;  // written with the current key
};

}  // namespace hora
