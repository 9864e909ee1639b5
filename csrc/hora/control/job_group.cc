#include "hora/control/job_group.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/base/unique_fd.h"
#include "hora/net/hello.h"
#include "hora/net/network_interface.h"
#include "hora/net/socket_address.h"
#include "hora/net/store_client.h"
#include "hora/wire/rank_card.h"

namespace hora {
namespace {

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "?";
}

// The abstract Unix socket on which a host's first rank waits for its others.
struct MeetingPoint {
  std::string name;
  UniqueFd fd;

  static Result<MeetingPoint> Open(int ranks) {
    std::array<unsigned char, 16> random{};
    if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
      return Fail(Status(StatusCode::kResource, "the system has no random bytes"));
    }
    MeetingPoint point;
    point.name = fmt::format("hora-{:02x}", fmt::join(random, ""));
    point.fd = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, point.name.data(), point.name.size());
    const auto bytes = offsetof(sockaddr_un, sun_path) + 1 + point.name.size();
    if (!point.fd.valid() ||
        bind(point.fd.get(), reinterpret_cast<const sockaddr*>(&address),
             static_cast<socklen_t>(bytes)) != 0 ||
        listen(point.fd.get(), ranks + 16) != 0) {
      return Fail(
          Error(StatusCode::kResource, "cannot listen on a Unix socket: {}", std::strerror(errno)));
    }
    return point;
  }
};

constexpr std::string_view kUnset = "(unset)";  // nobody asked

// Whether hora itself moves the data across hosts. Libraries neither authenticate nor encrypt.
bool MovesDataItself(std::string_view engine) { return engine == "tcp" || engine == "flat-tcp"; }

// A protection that was asked for holds, or the job does not start.
Status CheckDataPlane(const RankCard& card, std::size_t rank) {
  if (card.data_plane == kUnset || MovesDataItself(card.engine)) return Status::Ok();
  const std::string_view engine = card.engine;
  return Error(StatusCode::kInvalidArgument,
               "HORA_DATA_PLANE={} (--data-plane; of rank {} on {}) cannot be kept by {}, which "
               "neither encrypts nor authenticates: unset one of HORA_DATA_PLANE (--data-plane), "
               "HORA_BACKEND (--backend)",
               card.data_plane, rank, card.host,
               engine.starts_with("flat-") ? engine.substr(5) : engine);
}

Status CheckCards(const std::vector<RankCard>& cards) {
  const auto hosts = std::count_if(cards.begin(), cards.end(),
                                   [](const RankCard& card) { return card.local_rank == 0; });
  for (std::size_t rank = 0; rank < cards.size(); ++rank) {
    const RankCard& card = cards[rank];
    if (card.version != cards[0].version) {
      return Error(StatusCode::kMismatch,
                   "rank {} on {} runs hora {}, rank 0 on {} hora {}: install the same version on "
                   "all hosts",
                   rank, card.host, card.version, cards[0].host, cards[0].version);
    }
    if (card.engine != cards[0].engine) {
      return Error(StatusCode::kMismatch,
                   "rank {} on {} was started with HORA_BACKEND={}, rank 0 on {} with {}: set the "
                   "same for all ranks",
                   rank, card.host, card.engine, cards[0].host, cards[0].engine);
    }
    if (Status status = CheckDataPlane(card, rank); hosts > 1 && !status.ok()) return status;
    if (card.data_plane != cards[0].data_plane) {
      return Error(StatusCode::kMismatch,
                   "rank {} on {} was started with HORA_DATA_PLANE={}, rank 0 on {} with {}: set "
                   "the same for all ranks",
                   rank, card.host, card.data_plane, cards[0].host, cards[0].data_plane);
    }
    const bool first = card.local_rank == 0;
    const bool follows = rank > 0 && card.local_rank == cards[rank - 1].local_rank + 1 &&
                         card.local_size == cards[rank - 1].local_size;
    const bool last = card.local_rank + 1 == card.local_size;
    const bool ends = rank + 1 == cards.size() || cards[rank + 1].local_rank == 0;
    if ((first || follows) && last == ends) continue;
    return Error(StatusCode::kMismatch,
                 "rank {} is local rank {} of {} on {}, after local rank {} of {} on {}: ranks "
                 "must be numbered host by host (mpirun --map-by slot, srun --distribution=block)",
                 rank, card.local_rank, card.local_size, card.host,
                 rank == 0 ? -1 : cards[rank - 1].local_rank,
                 rank == 0 ? 0 : cards[rank - 1].local_size,
                 rank == 0 ? "no host" : cards[rank - 1].host);
  }
  return Status::Ok();
}

Result<std::vector<RankCard>> ReadCards(const Meeting& meeting) {
  std::vector<RankCard> cards;
  for (std::size_t rank = 0; rank < meeting.told.size(); ++rank) {
    Result<RankCard> card = DecodeRankCard(meeting.told[rank]);
    if (!card) {
      return Fail(Error(StatusCode::kMismatch,
                        "what rank {} says of itself cannot be read: is it of another version?",
                        rank));
    }
    cards.push_back(std::move(*card));
  }
  if (Status status = CheckCards(cards); !status.ok()) return Fail(std::move(status));
  return cards;
}

class Forming {
 public:
  explicit Forming(const JobGroupOptions& options)
      : options_(options), deadline_(SteadyClock::Instance().Now() + options.timeout) {}

  Result<JobGroup> Run() {
    const Result<SocketAddress> store = SocketAddress::Parse(options_.store);
    if (!store) return Fail(store.error());
    auto connected =
        ConnectToStore(*store, options_.rank, options_.credentials, options_.control, deadline_);
    if (!connected) return Fail(std::move(connected.error()));
    group_.store = std::move(*connected);
    if (Status status = Listen(*store); !status.ok()) {
      // The others would wait in vain.
      [[maybe_unused]] const Status told = group_.store->Set(
          std::string(kProblemKey), fmt::format("rank {} on {} cannot join: {}", options_.rank,
                                                HostName(), status.message()));
      return Fail(std::move(status));
    }
    if (Status status = Meet(); !status.ok()) return Fail(std::move(status));
    if (Status status = FormHost(); !status.ok()) return Fail(std::move(status));
    return std::move(group_);
  }

 private:
  Status Listen(const SocketAddress& store) {
    const Result<SocketAddress> own = ChooseAddress(options_.interfaces, store);
    if (!own) return own.error();
    data_ = options_.data.value_or(store.IsLoopback() ? Protection::kChecksum : Protection::kTls);
    auto network = PeerNetwork::Open({.rank = options_.rank,
                                      .bind = *own,
                                      .credentials = options_.credentials,
                                      .control = options_.control,
                                      .data = data_});
    if (!network) return network.error();
    group_.network = std::move(*network);
    if (options_.local_rank == 0) {
      Result<MeetingPoint> point = MeetingPoint::Open(options_.local_size);
      if (!point) return point.error();
      point_ = std::move(*point);
      Log(LogLevel::kInfo, options_.rank,
          fmt::format("host {} listens on {} only", HostName(), own->HostToString()));
    }
    return Status::Ok();
  }

  Status Meet() {
    const bool says_protection = options_.data || MovesDataItself(options_.engine);
    const RankCard mine{.version = HORA_VERSION,
                        .local_rank = options_.local_rank,
                        .local_size = options_.local_size,
                        .host = HostName(),
                        .address = SayToOthers(group_.network->address()),
                        .rendezvous = point_.name,
                        .engine = options_.engine,
                        .data_plane = std::string(says_protection ? ToString(data_) : kUnset),
                        .tunables = options_.tunables};
    const Result<Meeting> meeting =
        group_.store->Meet(options_.rank, options_.size, Encode(mine), deadline_);
    if (!meeting) return meeting.error();
    Result<std::vector<RankCard>> cards = ReadCards(*meeting);
    if (!cards) return cards.error();
    cards_ = std::move(*cards);
    group_.generation = meeting->generation;
    std::vector<int> sizes;
    std::vector<SocketAddress> addresses;
    for (const RankCard& card : cards_) {
      if (card.local_rank == 0) {
        sizes.push_back(card.local_size);
        group_.host_names.push_back(card.host);
      }
      const Result<SocketAddress> address = SocketAddress::Parse(card.address);
      if (!address) return address.error();
      addresses.push_back(OnLinkOf(group_.network->address(), *address));
    }
    group_.layout = HostLayout(std::move(sizes));
    group_.network->Begin(group_.generation, std::move(addresses));
    return Status::Ok();
  }

  Status FormHost() {
    const int first = options_.rank - options_.local_rank;
    HostGroupOptions host{.rank = options_.local_rank,
                          .size = options_.local_size,
                          .rendezvous = cards_[static_cast<std::size_t>(first)].rendezvous,
                          .key = options_.credentials.key,
                          .listen_fd = point_.fd.get(),
                          .tunables = cards_[0].tunables,
                          .timeout = deadline_ - SteadyClock::Instance().Now()};
    Result<HostGroup> formed = FormHostGroup(host);
    if (!formed) {
      return Error(formed.error().code(), "on host {}, whose first rank is {}: {}",
                   group_.host_names[static_cast<std::size_t>(group_.layout.host_of(first))], first,
                   formed.error().message());
    }
    for (PeerSocket& peer : formed->peers) peer.rank += first;
    group_.host = std::move(*formed);
    return Status::Ok();
  }

  const JobGroupOptions& options_;
  const TimePoint deadline_;
  Protection data_ = Protection::kTls;
  MeetingPoint point_;
  std::vector<RankCard> cards_;
  JobGroup group_;
};

}  // namespace

JobGroup JobGroup::OnOneHost(HostGroup group) {
  JobGroup job;
  job.layout = HostLayout({group.board->size()});
  job.host = std::move(group);
  return job;
}

Result<JobGroup> FormJobGroup(const JobGroupOptions& options) { return Forming(options).Run(); }

}  // namespace hora
