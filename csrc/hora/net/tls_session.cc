#include "hora/net/tls_session.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr std::string_view kIdentity = "hora";  // the key itself depends on the job and both nonces
constexpr std::size_t kMaxPayload = 16u << 10;
constexpr std::size_t kRecordRoom = kMaxPayload + 512;  // what a record and a key update take
constexpr std::size_t kBufferBytes = 8 * kRecordRoom;
constexpr std::size_t kReadAhead = 128u << 10;
// AES-GCM is good for 2^24.5 full records under one key (RFC 8446, 5.5).
constexpr std::uint64_t kRecordsPerKey = 1u << 22;

struct FreeContext {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

}  // namespace

struct TlsSession::Callbacks {
  static TlsSession& Of(const SSL* ssl) {
    return *static_cast<TlsSession*>(SSL_get_app_data(const_cast<SSL*>(ssl)));
  }

  static SSL_SESSION* MakeSession(SSL* ssl) {
    static constexpr unsigned char kAes128GcmSha256[] = {0x13, 0x01};
    SSL_SESSION* const session = SSL_SESSION_new();
    const SecretKey& key = Of(ssl).key_;
    if (session != nullptr &&
        SSL_SESSION_set1_master_key(session,
                                    reinterpret_cast<const unsigned char*>(key.bytes().data()),
                                    key.bytes().size()) == 1 &&
        SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, kAes128GcmSha256)) == 1 &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1) {
      return session;
    }
    SSL_SESSION_free(session);
    return nullptr;
  }

  // Of a dialler: which key it offers.
  static int UseSession(SSL* ssl, const EVP_MD* digest, const unsigned char** identity,
                        std::size_t* identity_bytes, SSL_SESSION** session) {
    *session = nullptr;
    if (digest != nullptr && EVP_MD_is_a(digest, "SHA256") != 1) return 1;
    *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
    *identity_bytes = kIdentity.size();
    *session = MakeSession(ssl);
    return *session != nullptr ? 1 : 0;
  }

  // Of a listener: the key that was offered, none for an identity that it does not know.
  static int FindSession(SSL* ssl, const unsigned char* identity, std::size_t identity_bytes,
                         SSL_SESSION** session) {
    const std::string_view offered(reinterpret_cast<const char*>(identity), identity_bytes);
    *session = offered == kIdentity ? MakeSession(ssl) : nullptr;
    return offered == kIdentity && *session == nullptr ? 0 : 1;
  }

  // OpenSSL's own socket would raise SIGPIPE, and send one record at a time.
  static int Send(BIO* bio, const char* bytes, std::size_t count, std::size_t* taken) {
    BIO_clear_retry_flags(bio);
    TlsSession& session = *static_cast<TlsSession*>(BIO_get_data(bio));
    *taken = std::min(count, session.out_.room());
    if (*taken == 0) {
      BIO_set_retry_write(bio);
      return 0;
    }
    session.out_.Append(std::as_bytes(std::span(bytes, *taken)));
    return 1;
  }

  static int Receive(BIO* bio, char* into, std::size_t count, std::size_t* got) {
    BIO_clear_retry_flags(bio);
    TlsSession& session = *static_cast<TlsSession*>(BIO_get_data(bio));
    *got = 0;
    Result<std::size_t> received =
        ReceiveSome(session.fd_, std::as_writable_bytes(std::span(into, count)));
    if (!received) {
      session.read_error_ = std::move(received.error());
      return 0;
    }
    *got = *received;
    if (*got == 0) BIO_set_retry_read(bio);
    return *got == 0 ? 0 : 1;
  }

  static long Control(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
    return command == BIO_CTRL_FLUSH ? 1 : 0;
  }

  static BIO_METHOD* MakeMethod() {
    BIO_METHOD* const method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "hora");
    if (method == nullptr) return nullptr;
    BIO_meth_set_write_ex(method, &Send);
    BIO_meth_set_read_ex(method, &Receive);
    BIO_meth_set_ctrl(method, &Control);
    return method;
  }

  static SSL_CTX* MakeContext() {
    std::unique_ptr<SSL_CTX, FreeContext> context(SSL_CTX_new(TLS_method()));
    if (context == nullptr || SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(context.get(), "TLS_AES_128_GCM_SHA256") != 1 ||
        SSL_CTX_set_num_tickets(context.get(), 0) != 1) {
      return nullptr;
    }
    SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(context.get(),
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
    SSL_CTX_set_psk_use_session_callback(context.get(), &UseSession);
    SSL_CTX_set_psk_find_session_callback(context.get(), &FindSession);
    SSL_CTX_set_default_read_buffer_len(context.get(), kReadAhead);
    SSL_CTX_set_read_ahead(context.get(), 1);
    return context.release();
  }

  // Settings that all sessions share; they live as long as the process, as threads may.
  static SSL_CTX* Context() {
    static SSL_CTX* const context = MakeContext();
    return context;
  }
  static BIO_METHOD* Method() {
    static BIO_METHOD* const method = MakeMethod();
    return method;
  }
};

TlsSession::TlsSession(SecretKey key) : key_(std::move(key)), out_(kBufferBytes) {}

TlsSession::~TlsSession() = default;

Result<std::unique_ptr<TlsSession>> TlsSession::Open(Handshake::Role role, SecretKey key) {
  std::unique_ptr<TlsSession> session(new TlsSession(std::move(key)));
  SSL_CTX* const context = Callbacks::Context();
  BIO_METHOD* const method = Callbacks::Method();
  session->ssl_.reset(context != nullptr ? SSL_new(context) : nullptr);
  BIO* const bio = method != nullptr ? BIO_new(method) : nullptr;
  if (session->ssl_ == nullptr || bio == nullptr) {
    BIO_free(bio);
    return Fail(CryptoFailed("TLS 1.3"));
  }
  BIO_set_data(bio, session.get());
  BIO_set_init(bio, 1);
  SSL* const ssl = session->ssl_.get();
  SSL_set_bio(ssl, bio, bio);
  SSL_set_app_data(ssl, session.get());
  if (role == Handshake::Role::kDialler) {
    // Nobody is trusted for a certificate, so that a listener cannot do without the key.
    SSL_set_verify(ssl, SSL_VERIFY_PEER, nullptr);
    SSL_set_connect_state(ssl);
  } else {
    SSL_set_accept_state(ssl);
  }
  return session;
}

Result<Handshake::Progress> TlsSession::Advance(int fd) {
  const std::lock_guard lock(mutex_);
  fd_ = fd;
  ERR_clear_error();
  const int rc = SSL_do_handshake(ssl_.get());
  const int reason = SSL_get_error(ssl_.get(), rc);
  // An alert, too, tells the other end why.
  Result<bool> sent = out_.SendTo(fd);
  if (rc != 1 && reason != SSL_ERROR_WANT_READ && reason != SSL_ERROR_WANT_WRITE) {
    return Fail(Broken("the TLS handshake failed"));
  }
  if (!sent) return Fail(std::move(sent.error()));
  if (!*sent) return Handshake::Progress::kWantsWrite;
  if (rc != 1) return Handshake::Progress::kWantsRead;
  if (SSL_session_reused(ssl_.get()) != 1) {
    return Fail(Status(StatusCode::kPeerFailed, "the TLS handshake did without the job's key"));
  }
  key_ = SecretKey();
  return Handshake::Progress::kDone;
}

Status TlsSession::Encrypt(std::span<const std::byte> bytes) {
  if (++records_ >= kRecordsPerKey) {
    records_ = 0;
    if (SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) != 1) {
      return Broken("the TLS key cannot be renewed");
    }
  }
  ERR_clear_error();
  std::size_t written = 0;
  // There is room for all of it, so that no record stays half written.
  if (SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &written) != 1 ||
      written != bytes.size()) {
    return Broken("a TLS record cannot be written");
  }
  return Status::Ok();
}

Result<std::size_t> TlsSession::Write(int fd, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  fd_ = fd;
  std::size_t taken = 0;
  while (!bytes.empty()) {
    while (!bytes.empty() && out_.room() >= kRecordRoom) {
      const auto payload = bytes.first(std::min(bytes.size(), kMaxPayload));
      if (Status status = Encrypt(payload); !status.ok()) return Fail(std::move(status));
      bytes = bytes.subspan(payload.size());
      taken += payload.size();
    }
    Result<bool> sent = out_.SendTo(fd);
    if (!sent && taken == 0) return Fail(std::move(sent.error()));
    if (!sent || !*sent) break;
  }
  return taken;
}

Result<std::size_t> TlsSession::Read(int fd, std::span<std::byte> into) {
  const std::lock_guard lock(mutex_);
  fd_ = fd;
  drained_ = false;
  std::size_t delivered = 0;
  while (!into.empty()) {
    ERR_clear_error();
    std::size_t got = 0;
    const int rc = SSL_read_ex(ssl_.get(), into.data(), into.size(), &got);
    if (rc != 1) {
      drained_ = true;
      if (SSL_get_error(ssl_.get(), rc) == SSL_ERROR_WANT_READ || delivered > 0) break;
      Status status = Broken("a TLS record cannot be read");
      shutdown(fd, SHUT_RDWR);
      return Fail(std::move(status));
    }
    delivered += got;
    into = into.subspan(got);
  }
  return delivered;
}

Result<bool> TlsSession::Flush(int fd) {
  const std::lock_guard lock(mutex_);
  return out_.SendTo(fd);
}

bool TlsSession::HasUnread() const {
  const std::lock_guard lock(mutex_);
  return !drained_ && SSL_has_pending(ssl_.get()) == 1;
}

Status TlsSession::Broken(std::string_view doing) {
  if (!read_error_.ok()) return read_error_;
  const Status reason = CryptoFailed(doing);
  return Status(StatusCode::kPeerFailed, reason.message());
}

}  // namespace hora
