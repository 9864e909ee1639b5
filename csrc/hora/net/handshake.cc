#include "hora/net/handshake.h"

#include <poll.h>

#include <optional>
#include <utility>
#include <vector>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/net/hello.h"
#include "hora/net/records.h"
#include "hora/net/socket_io.h"
#include "hora/net/tcp_socket.h"
#include "hora/net/tls_session.h"

namespace hora {
namespace {

using Role = Handshake::Role;
using Progress = Handshake::Progress;

constexpr std::size_t kProofBytes = kIntroductionBytes + sizeof(Digest);

std::string_view NameOf(Role role) { return role == Role::kDialler ? "dialler" : "listener"; }

Role Opposite(Role role) { return role == Role::kDialler ? Role::kListener : Role::kDialler; }

}  // namespace

// Dialler: hello →, ← hello, proof →, ← proof. A proof is an introduction and an HMAC over all that
// was said before and the introduction; under TLS, which brings its own, it is the introduction.
class Handshake::State {
 public:
  State(UniqueFd socket, const Options& options)
      : socket_(std::move(socket)), options_(options), peer_name_(PeerName(socket_.get())) {}
  State(const State&) = delete;

  Progress Advance();
  int fd() const { return socket_.get(); }
  const Status& failure() const { return failure_; }
  bool is_member() const { return is_member_; }
  const Introduction& peer() const { return peer_; }
  const std::string& peer_name() const { return peer_name_; }
  Channel Take();

 private:
  enum class Step : std::uint8_t { kStart, kHello, kTls, kProof, kLastWords, kDone, kFailed };

  bool dials() const { return options_.role == Role::kDialler; }
  bool is_tls() const { return options_.protection == Protection::kTls; }

  Result<Progress> Continue();
  Status Start();
  Result<bool> Send();
  Result<bool> Receive(std::size_t bytes);
  Status HearHello();
  Status AfterHellos();
  Status SayProof();
  Status HearProof();
  Result<Digest> ProofOf(Role role, const IntroductionBytes& introduction);
  Status MakeRecords();
  Result<SecretKey> Derive(std::string_view purpose) const {
    return DeriveKey(options_.credentials.key.bytes(), said_, purpose);
  }

  UniqueFd socket_;
  Options options_;
  std::string peer_name_;
  Step step_ = Step::kStart;
  FixedBuffer outbox_{kHelloBytes + kProofBytes};
  FixedBuffer inbox_{kHelloBytes};

  NetworkHello hello_;           // this end's
  std::vector<std::byte> said_;  // by both, the dialler's words first
  std::unique_ptr<TlsSession> tls_;
  std::unique_ptr<Channel::Records> records_;

  Introduction peer_;
  bool is_member_ = false;
  Status parting_;  // what to fail with when the last words have been said
  Status failure_;
};

Progress Handshake::State::Advance() {
  if (step_ == Step::kDone) return Progress::kDone;
  if (step_ == Step::kFailed) return Progress::kFailed;
  Result<Progress> progress = Continue();
  if (progress) return *progress;
  step_ = Step::kFailed;
  failure_ = AboutPeer(peer_name_, progress.error());
  return Progress::kFailed;
}

Result<Progress> Handshake::State::Continue() {
  if (step_ == Step::kStart) {
    if (Status status = Start(); !status.ok()) return Fail(std::move(status));
  }
  for (;;) {
    Result<bool> sent = Send();
    // Why somebody is refused matters more than whether it has been told.
    if (step_ == Step::kLastWords && !parting_.ok() && (!sent || *sent)) return Fail(parting_);
    if (!sent) return Fail(std::move(sent.error()));
    if (!*sent) return Progress::kWantsWrite;
    if (step_ == Step::kLastWords) {
      step_ = Step::kDone;
      return Progress::kDone;
    }
    Status status;
    if (step_ == Step::kTls) {
      Result<Progress> tls = tls_->Advance(fd());
      if (!tls) return tls;
      if (*tls != Progress::kDone) return *tls;
      is_member_ = true;
      records_ = std::move(tls_);
      step_ = Step::kProof;
      if (dials()) status = SayProof();
    } else {
      const std::size_t wanted = step_ == Step::kHello ? kHelloBytes
                                 : is_tls()            ? kIntroductionBytes
                                                       : kProofBytes;
      Result<bool> complete = Receive(wanted);
      if (!complete) return Fail(std::move(complete.error()));
      if (!*complete) return Progress::kWantsRead;
      status = step_ == Step::kHello ? HearHello() : HearProof();
      inbox_.Drop(wanted);
    }
    if (!status.ok()) return Fail(std::move(status));
  }
}

Status Handshake::State::Start() {
  Result<Nonce> nonce = RandomNonce();
  if (!nonce) return std::move(nonce.error());
  hello_ = {.version = kNetworkVersion,
            .protection = options_.protection,
            .role = options_.role,
            .job_id = options_.credentials.job_id,
            .nonce = *nonce};
  Result<HelloBytes> bytes = EncodeHello(hello_, options_.credentials.key);
  if (!bytes) return std::move(bytes.error());
  said_.assign(bytes->begin(), bytes->end());
  if (dials()) outbox_.Append(*bytes);
  step_ = Step::kHello;
  return Status::Ok();
}

Result<bool> Handshake::State::Send() {
  if (records_ == nullptr || !is_tls()) return outbox_.SendTo(fd());
  while (!outbox_.empty()) {
    Result<std::size_t> taken = records_->Write(fd(), outbox_.held());
    if (!taken) return Fail(std::move(taken.error()));
    if (*taken == 0) return false;
    outbox_.Drop(*taken);
  }
  return records_->Flush(fd());
}

Result<bool> Handshake::State::Receive(std::size_t bytes) {
  while (inbox_.held().size() < bytes) {
    const auto missing = inbox_.Room().first(bytes - inbox_.held().size());
    Result<std::size_t> got = records_ != nullptr && is_tls() ? records_->Read(fd(), missing)
                                                              : ReceiveSome(fd(), missing);
    if (!got) {
      return Fail(Error(got.error().code(),
                        "{} during the handshake: it is not a member of job "
                        "'{}', or refused this process, and says why",
                        got.error().message(), hello_.job_id));
    }
    if (*got == 0) return false;
    inbox_.Add(*got);
    // Who speaks another protocol need not wait for an answer until it has said as much.
    if (step_ == Step::kHello && !MayBeHello(inbox_.held())) {
      return Fail(Status(StatusCode::kPeerFailed, "speaks another protocol than hora's"));
    }
  }
  return true;
}

Status Handshake::State::HearHello() {
  HelloBytes theirs;
  std::copy_n(inbox_.held().begin(), theirs.size(), theirs.begin());
  Result<NetworkHello> hello = CheckHello(theirs, hello_, options_.credentials.key);
  if (!dials()) {
    // Also to those who will be refused: it tells them what is wrong.
    outbox_.Append(said_);
    if (!hello) {
      parting_ = std::move(hello.error());
      step_ = Step::kLastWords;
      return Status::Ok();
    }
    said_.insert(said_.begin(), theirs.begin(), theirs.end());
  } else {
    if (!hello) return std::move(hello.error());
    said_.insert(said_.end(), theirs.begin(), theirs.end());
  }
  return AfterHellos();
}

Status Handshake::State::AfterHellos() {
  step_ = Step::kProof;
  if (!is_tls()) return dials() ? SayProof() : Status::Ok();
  Result<SecretKey> key = Derive("hora tls 1.3 key");
  if (!key) return std::move(key.error());
  Result<std::unique_ptr<TlsSession>> session = TlsSession::Open(options_.role, std::move(*key));
  if (!session) return std::move(session.error());
  tls_ = std::move(*session);
  step_ = Step::kTls;
  return Status::Ok();
}

Result<Digest> Handshake::State::ProofOf(Role role, const IntroductionBytes& introduction) {
  const Result<SecretKey> key = Derive("hora proof");
  if (!key) return Fail(key.error());
  Result<Authenticator> authenticator = Authenticator::Open(*key);
  if (!authenticator) return Fail(authenticator.error());
  const std::array<std::span<const std::byte>, 2> parts{std::as_bytes(std::span(NameOf(role))),
                                                        introduction};
  return authenticator->Sign(parts);
}

Status Handshake::State::SayProof() {
  if (!dials()) options_.mine.purpose = peer_.purpose;
  const IntroductionBytes introduction = EncodeIntroduction(options_.mine);
  outbox_.Append(introduction);
  if (is_tls()) return Status::Ok();
  const Result<Digest> digest = ProofOf(options_.role, introduction);
  if (!digest) return digest.error();
  outbox_.Append(*digest);
  said_.insert(said_.end(), introduction.begin(), introduction.end());
  return Status::Ok();
}

Status Handshake::State::HearProof() {
  IntroductionBytes introduction;
  std::copy_n(inbox_.held().begin(), introduction.size(), introduction.begin());
  if (!is_tls()) {
    const Result<Digest> expected = ProofOf(Opposite(options_.role), introduction);
    if (!expected) return expected.error();
    if (!SameBytes(*expected, inbox_.held().subspan(kIntroductionBytes, sizeof(Digest)))) {
      return Error(StatusCode::kPeerFailed, "does not prove that it has the key of job '{}'",
                   hello_.job_id);
    }
    is_member_ = true;
    said_.insert(said_.end(), introduction.begin(), introduction.end());
  }
  Result<Introduction> peer = DecodeIntroduction(introduction);
  if (!peer) return std::move(peer.error());
  peer_ = *peer;
  if (dials() && peer_.purpose != options_.mine.purpose) {
    return Error(StatusCode::kPeerFailed, "answers for another purpose than it was asked for");
  }
  if (!dials()) {
    if (Status status = SayProof(); !status.ok()) return status;
  }
  step_ = Step::kLastWords;
  return is_tls() ? Status::Ok() : MakeRecords();
}

Status Handshake::State::MakeRecords() {
  if (options_.protection == Protection::kChecksum) {
    records_ = MakeChecksumRecords();
    return Status::Ok();
  }
  Result<SecretKey> to_listener = Derive("hora records to the listener");
  if (!to_listener) return std::move(to_listener.error());
  Result<SecretKey> to_dialler = Derive("hora records to the dialler");
  if (!to_dialler) return std::move(to_dialler.error());
  RecordKeys keys{.sends = std::move(dials() ? *to_listener : *to_dialler),
                  .receives = std::move(dials() ? *to_dialler : *to_listener)};
  Result<std::unique_ptr<Channel::Records>> records = MakeMacRecords(keys);
  if (!records) return std::move(records.error());
  records_ = std::move(*records);
  return Status::Ok();
}

Channel Handshake::State::Take() {
  Check(step_ == Step::kDone && records_ != nullptr,
        "a handshake gives its channel once, when done");
  return Channel(std::move(socket_), options_.protection, std::move(records_));
}

Handshake::Handshake(UniqueFd socket, const Options& options)
    : state_(std::make_unique<State>(std::move(socket), options)) {}
Handshake::~Handshake() = default;
Handshake::Handshake(Handshake&&) noexcept = default;

Progress Handshake::Advance() { return state_->Advance(); }
int Handshake::fd() const { return state_->fd(); }
const Status& Handshake::failure() const { return state_->failure(); }
bool Handshake::is_member() const { return state_->is_member(); }
const Introduction& Handshake::peer() const { return state_->peer(); }
Channel Handshake::Take() { return state_->Take(); }

Result<Channel> Handshake::Run(UniqueFd socket, const Options& options, TimePoint deadline,
                               Introduction* peer) {
  Handshake handshake(std::move(socket), options);
  for (;;) {
    const Progress progress = handshake.Advance();
    if (progress == Progress::kFailed) return Fail(handshake.failure());
    if (progress == Progress::kDone) break;
    const short events = progress == Progress::kWantsRead ? POLLIN : POLLOUT;
    const bool late = SteadyClock::Instance().Now() >= deadline;
    if (late || !AwaitSocket(handshake.fd(), events, deadline)) {
      return Fail(Error(StatusCode::kTimeout,
                        "{}: the handshake did not end in time; what listens there is no member of "
                        "job '{}', or is too busy",
                        handshake.state_->peer_name(), options.credentials.job_id));
    }
  }
  if (peer != nullptr) *peer = handshake.peer();
  return handshake.Take();
}

}  // namespace hora
