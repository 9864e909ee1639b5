#include "hora/net/store_client.h"

#include <poll.h>

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <optional>
#include <random>
#include <utility>
#include <variant>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/net/handshake.h"
#include "hora/net/network_thread.h"
#include "hora/net/socket_io.h"
#include "hora/net/store_stream.h"
#include "hora/net/tcp_socket.h"

namespace hora {
namespace {

constexpr Duration kSetPatience = std::chrono::seconds(30);
// The store waits until the deadline; what it then says (who is missing) is on its way for so long.
constexpr Duration kAnswerDelay = std::chrono::seconds(1);
// A store that hangs up before the handshake ends may have been short of room: it is asked again
// for so long. One with another key does the same each time.
constexpr Duration kHandshakeAttempts = std::chrono::seconds(2);
constexpr Duration kBetweenAttempts = std::chrono::milliseconds(50);
// Launchers are started by hand, one after the other. Who waits for the first longer says so.
constexpr Duration kSilentWait = std::chrono::seconds(2);

TimePoint Now() { return SteadyClock::Instance().Now(); }

std::uint32_t MillisecondsLeft(TimePoint deadline) {
  const auto left = std::chrono::floor<std::chrono::milliseconds>(deadline - Now()).count();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(left, 0, std::numeric_limits<std::uint32_t>::max()));
}

std::uint64_t RandomNumber() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

class StoreClient final : public Store {
 public:
  StoreClient(const SocketAddress& address, int rank, const JobCredentials& credentials,
              Protection protection)
      : address_(address),
        handshake_{.role = Handshake::Role::kDialler,
                   .protection = protection,
                   .credentials = credentials,
                   .mine = {.rank = rank, .generation = 0, .purpose = {}}} {}

  Status Connect(TimePoint deadline, bool patient);

  Result<Meeting> Meet(int rank, int size, const std::string& tells, TimePoint deadline) override;
  Status Set(const std::string& key, const std::string& value) override;
  Result<std::string> Get(const std::string& key, TimePoint deadline) override;

 private:
  // Sends what `request` makes of the time that is left, and waits for an answer of its kind.
  template <class Answer, class MakeRequest>
  Result<Answer> Ask(const std::string& what, TimePoint deadline, MakeRequest request);
  Result<StoreMessage> Converse(const StoreMessage& request, TimePoint deadline);
  Result<StoreMessage> AwaitAnswer(TimePoint deadline);
  Result<UniqueFd> DialPatiently(TimePoint deadline);
  Status About(const Status& cause) const;

  const SocketAddress address_;
  const Handshake::Options handshake_;
  const std::uint64_t client_ = RandomNumber();
  std::mutex mutex_;
  std::condition_variable turn_ends_;
  bool busy_ = false;
  bool has_warned_ = false;            // that it still waits; of whoever has the turn
  std::optional<StoreStream> stream_;  // of whoever has the turn
};

Status StoreClient::Connect(TimePoint deadline, bool patient) {
  TimePoint last_attempt = TimePoint::max();
  for (;;) {
    Result<UniqueFd> socket =
        patient ? DialPatiently(deadline) : Dial(address_, deadline, /*patient=*/false);
    if (!socket) return About(socket.error());
    const TimePoint attempt_ends = std::min(deadline, Now() + kHandshakePatience);
    Result<Channel> channel = Handshake::Run(std::move(*socket), handshake_, attempt_ends);
    if (channel) {
      stream_.emplace(std::move(*channel), kMaxStoreAnswerBytes);
      return Status::Ok();
    }
    last_attempt = std::min({last_attempt, Now() + kHandshakeAttempts, deadline});
    const bool may_heal = channel.error().code() == StatusCode::kPeerFailed;
    if (!may_heal || Now() + kBetweenAttempts >= last_attempt) return About(channel.error());
    poll(nullptr, 0, PollTimeoutMs(Now() + kBetweenAttempts));
  }
}

Result<UniqueFd> StoreClient::DialPatiently(TimePoint deadline) {
  const TimePoint silent_until = has_warned_ ? deadline : std::min(deadline, Now() + kSilentWait);
  Result<UniqueFd> socket = Dial(address_, silent_until);
  const bool still_waits = !socket && silent_until < deadline && Now() >= silent_until;
  if (!still_waits) return socket;
  has_warned_ = true;
  const int rank = handshake_.mine.rank;
  Log(LogLevel::kWarning, rank,
      fmt::format("rank {} still waits for the job's store: {}; gives up in {:.0f} s. Check that "
                  "the launcher of the first host runs, and listens at this address "
                  "(--master-addr, --master-port)",
                  rank, socket.error().message(),
                  std::chrono::duration<double>(deadline - Now()).count()));
  return Dial(address_, deadline);
}

Result<Meeting> StoreClient::Meet(int rank, int size, const std::string& tells,
                                  TimePoint deadline) {
  if (rank < 0 || rank >= size || tells.size() > kMaxStoreValueBytes) {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "rank {} of {} cannot meet the others with {} bytes to tell; allowed are "
                      "ranks 0 to {} and {} bytes",
                      rank, size, tells.size(), size - 1, kMaxStoreValueBytes));
  }
  Result<MeetAnswer> answer = Ask<MeetAnswer>(
      fmt::format("rank {} waits for the others", rank), deadline, [&](std::uint32_t patience_ms) {
        return MeetRequest{rank, size, client_, patience_ms, tells};
      });
  if (!answer) return Fail(std::move(answer.error()));
  if (answer->told.size() != static_cast<std::size_t>(size)) {
    return Fail(About(
        Error(StatusCode::kInternal, "it tells of {} ranks, not {}", answer->told.size(), size)));
  }
  return Meeting{answer->generation, std::move(answer->told)};
}

Status StoreClient::Set(const std::string& key, const std::string& value) {
  if (key.size() > kMaxStoreKeyBytes || value.size() > kMaxStoreValueBytes) {
    return Error(StatusCode::kInvalidArgument,
                 "a key of {} bytes, at most {}, with a value of {} bytes, at most {}", key.size(),
                 kMaxStoreKeyBytes, value.size(), kMaxStoreValueBytes);
  }
  const Result<SetAnswer> answer =
      Ask<SetAnswer>(fmt::format("setting '{}'", key), Now() + kSetPatience, [&](std::uint32_t) {
        return SetRequest{key, value};
      });
  return answer ? Status::Ok() : answer.error();
}

Result<std::string> StoreClient::Get(const std::string& key, TimePoint deadline) {
  if (key.size() > kMaxStoreKeyBytes) {
    return Fail(Error(StatusCode::kInvalidArgument, "a key of {} bytes, at most {}", key.size(),
                      kMaxStoreKeyBytes));
  }
  Result<GetAnswer> answer = Ask<GetAnswer>(fmt::format("waiting for '{}'", key), deadline,
                                            [&](std::uint32_t patience_ms) {
                                              return GetRequest{key, patience_ms};
                                            });
  if (!answer) return Fail(std::move(answer.error()));
  return std::move(answer->value);
}

template <class Answer, class MakeRequest>
Result<Answer> StoreClient::Ask(const std::string& what, TimePoint deadline, MakeRequest request) {
  {
    std::unique_lock lock(mutex_);
    if (!turn_ends_.wait_until(lock, deadline, [&] { return !busy_; })) {
      return Fail(About(Error(StatusCode::kTimeout,
                              "{}: another thread has waited for an answer all the time", what)));
    }
    busy_ = true;
  }
  Status status;
  // An idle connection may have ended meanwhile, with a store that was started anew.
  if (stream_ && HasClosed(stream_->fd())) stream_.reset();
  if (!stream_) status = Connect(deadline, /*patient=*/false);
  Result<StoreMessage> answer =
      status.ok() ? Converse(request(MillisecondsLeft(deadline)), deadline + kAnswerDelay)
                  : Fail(std::move(status));
  // Without its answer the connection is out of step; to close it is to leave the meeting.
  if (!answer) stream_.reset();
  {
    const std::lock_guard lock(mutex_);
    busy_ = false;
  }
  turn_ends_.notify_one();
  if (!answer) {
    return Fail(Status(answer.error().code(), what + ": " + answer.error().message()));
  }
  if (Refusal* refusal = std::get_if<Refusal>(&*answer)) return Fail(std::move(refusal->status));
  if (Answer* right = std::get_if<Answer>(&*answer)) return std::move(*right);
  return Fail(
      About(Error(StatusCode::kInternal, "{}: it gave the answer to another request", what)));
}

Result<StoreMessage> StoreClient::Converse(const StoreMessage& request, TimePoint deadline) {
  Result<StoreFrame> frame = MakeStoreFrame(request);
  if (!frame) return Fail(std::move(frame.error()));
  // What a store that ends has said before is worth reading.
  const Status sent = stream_->Send(std::move(*frame));
  Result<StoreMessage> answer = AwaitAnswer(deadline);
  if (!answer && !sent.ok()) return Fail(About(sent));
  return answer;
}

Result<StoreMessage> StoreClient::AwaitAnswer(TimePoint deadline) {
  for (;;) {
    Result<std::optional<StoreMessage>> answer = stream_->Receive();
    if (!answer) return Fail(About(answer.error()));
    if (answer->has_value()) return std::move(**answer);
    const Result<bool> flushed = stream_->Flush();
    const bool sends = flushed && !*flushed;
    if (!AwaitSocket(stream_->fd(), sends ? POLLIN | POLLOUT : POLLIN, deadline)) {
      return Fail(About(
          Error(StatusCode::kTimeout, "no answer in time: is its host overloaded or cut off?")));
    }
  }
}

// Most causes begin with the address.
Status StoreClient::About(const Status& cause) const {
  const std::string address = address_.ToString();
  const bool named = cause.message().starts_with(address);
  return Error(cause.code(), "the store at {}{}", named ? "" : address + ": ", cause.message());
}

}  // namespace

Result<std::unique_ptr<Store>> ConnectToStore(const SocketAddress& address, int rank,
                                              const JobCredentials& credentials,
                                              Protection protection, TimePoint deadline) {
  auto client = std::make_unique<StoreClient>(address, rank, credentials, protection);
  if (Status status = client->Connect(deadline, /*patient=*/true); !status.ok()) {
    return Fail(std::move(status));
  }
  return std::unique_ptr<Store>(std::move(client));
}

Status TellStore(const SocketAddress& address, int rank, const JobCredentials& credentials,
                 Protection protection, const std::string& problem, TimePoint deadline) {
  const auto store = ConnectToStore(address, rank, credentials, protection, deadline);
  if (!store) return store.error();
  return (*store)->Set(std::string(kProblemKey), problem.substr(0, kMaxStoreValueBytes));
}

}  // namespace hora
