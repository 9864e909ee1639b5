#include "hora/shm/board.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr std::uint64_t kMagic = 0x64'72'61'6f'62'61'72'6f;  // "oraboard" in memory
constexpr std::uint32_t kLayoutVersion = 2;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kTextBytes = 512;
constexpr int kMaxSize = 1 << 16;
constexpr std::size_t kMaxWindowBytes = std::size_t{1} << 40;

// How long a reader of the cause waits for a rank that is in the middle of writing it.
constexpr auto kRecordPatience = std::chrono::milliseconds(500);

constexpr std::size_t RoundUp(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// The abort word: a phase, and the rank it is about in the upper half.
enum Phase : std::uint32_t { kRunning = 0, kRecording = 1, kRecorded = 2 };

constexpr std::uint64_t AbortWord(int origin, Phase phase) {
  return std::uint64_t{static_cast<std::uint32_t>(origin)} << 32 | phase;
}
constexpr Phase PhaseOf(std::uint64_t word) { return static_cast<Phase>(word & 0xffffffffu); }
constexpr int OriginOf(std::uint64_t word) { return static_cast<int>(word >> 32); }

std::string_view CutAtCharacter(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  // 10xxxxxx continues a character of UTF-8.
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0u) == 0x80u) --limit;
  return text.substr(0, limit);
}

std::size_t WindowBytes(const BoardOptions& options, Lane lane) {
  if (lane != Lane::kUrgent) return options.window_bytes;
  return std::min(options.window_bytes, kMaxUrgentWindowBytes);
}

std::size_t WindowStride(const BoardOptions& options, Lane lane) {
  return RoundUp(WindowBytes(options, lane), kPage);
}

Status CheckOptions(const BoardOptions& options) {
  if (options.size < 1 || options.size > kMaxSize) {
    return Error(StatusCode::kInvalidArgument, "a board for {} ranks; allowed are 1 to {}",
                 options.size, kMaxSize);
  }
  if (options.window_bytes == 0 || options.window_bytes > kMaxWindowBytes) {
    return Error(StatusCode::kInvalidArgument,
                 "windows of {} bytes (HORA_WINDOW_BYTES); allowed are 1 to {}",
                 options.window_bytes, kMaxWindowBytes);
  }
  return Status::Ok();
}

}  // namespace

// The first page. Plain fields are written before the descriptor leaves the creator.
struct Board::Header {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::int32_t size;
  std::uint64_t window_bytes;
  std::uint64_t total_bytes;
  std::uint64_t generation;
  alignas(64) std::atomic<std::uint64_t> abort_word;
  std::uint32_t cause_code;  // these three: written in kRecording, read in kRecorded
  std::uint32_t cause_length;
  char cause_text[kTextBytes];
};

// Where everything is, as offsets from the start of the segment.
struct Board::Layout {
  explicit Layout(const BoardOptions& options) {
    const auto ranks = static_cast<std::size_t>(options.size);
    flags = RoundUp(sizeof(Header), kPage);
    ring_states = flags + ranks * sizeof(RankFlags);
    ring_bytes = RoundUp(ring_states + 2 * ranks * sizeof(ByteRingState), kPage);
    total = ring_bytes + 2 * ranks * kControlRingBytes;
    for (int lane = 0; lane < kLaneCount; ++lane) {
      windows[lane] = total;
      total += ranks * kWindowsPerRank * WindowStride(options, static_cast<Lane>(lane));
    }
  }

  std::size_t flags, ring_states, ring_bytes, windows[kLaneCount], total;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(alignof(RankFlags) == 64 && sizeof(RankFlags) == (1 + 4 * kLaneCount) * 64);
static_assert(sizeof(InlineLine) == 64);
static_assert(kControlRingBytes % kPage == 0 && (kControlRingBytes & (kControlRingBytes - 1)) == 0);

Board::Board(Segment segment, const BoardOptions& options)
    : segment_(std::move(segment)), options_(options) {
  const Layout layout(options);
  std::byte* const start = segment_.bytes().data();
  header_ = reinterpret_cast<Header*>(start);
  flags_ = reinterpret_cast<RankFlags*>(start + layout.flags);
  ring_states_ = reinterpret_cast<ByteRingState*>(start + layout.ring_states);
  ring_bytes_ = start + layout.ring_bytes;
  for (int lane = 0; lane < kLaneCount; ++lane) windows_[lane] = start + layout.windows[lane];
}

Result<std::shared_ptr<Board>> Board::Create(const BoardOptions& options) {
  if (Status status = CheckOptions(options); !status.ok()) return Fail(std::move(status));
  Result<Segment> segment = Segment::Create(Layout(options).total);
  if (!segment) return Fail(std::move(segment.error()));
  return Begin(std::move(*segment), options);
}

Result<std::shared_ptr<Board>> Board::CreateWithin(const Board& host, std::size_t offset,
                                                   const BoardOptions& options) {
  if (Status status = CheckOptions(options); !status.ok()) return Fail(std::move(status));
  Result<Segment> part = Segment::CreatePart(host.fd(), offset, Layout(options).total);
  if (!part) return Fail(std::move(part.error()));
  return Begin(std::move(*part), options);
}

std::shared_ptr<Board> Board::Begin(Segment segment, const BoardOptions& options) {
  std::shared_ptr<Board> board(new Board(std::move(segment), options));
  // Everything else starts as the zero bytes of fresh memory.
  Header& header = *board->header_;
  header.magic = kMagic;
  header.layout_version = kLayoutVersion;
  header.size = options.size;
  header.window_bytes = options.window_bytes;
  header.total_bytes = Layout(options).total;
  header.generation = options.generation;
  return board;
}

Result<std::shared_ptr<Board>> Board::Attach(int fd, const BoardOptions& expected) {
  Result<Segment> segment = Segment::Attach(fd);
  if (!segment) return Fail(std::move(segment.error()));
  return Recognise(std::move(*segment), expected);
}

Result<std::shared_ptr<Board>> Board::AttachWithin(const Board& host, std::size_t offset,
                                                   const BoardOptions& expected) {
  if (Status status = CheckOptions(expected); !status.ok()) return Fail(std::move(status));
  Result<Segment> part = Segment::AttachPart(host.fd(), offset, Layout(expected).total);
  if (!part) return Fail(std::move(part.error()));
  return Recognise(std::move(*part), expected);
}

Result<std::shared_ptr<Board>> Board::Recognise(Segment segment, const BoardOptions& expected) {
  if (Status status = CheckOptions(expected); !status.ok()) return Fail(std::move(status));
  const std::size_t total = Layout(expected).total;
  const std::size_t mapped = segment.bytes().size();
  if (mapped < sizeof(Header)) {
    return Fail(Error(StatusCode::kInternal, "a segment of {} bytes is not a board", mapped));
  }
  const Header& header = *reinterpret_cast<const Header*>(segment.bytes().data());
  if (header.magic != kMagic || header.layout_version != kLayoutVersion) {
    return Fail(
        Error(StatusCode::kInternal,
              "the segment is not a board of layout {} (magic {:#x}, layout {}): are all ranks "
              "of the same hora version?",
              kLayoutVersion, header.magic, header.layout_version));
  }
  // What follows the board belongs to the process sets.
  if (header.size != expected.size || header.window_bytes != expected.window_bytes ||
      header.generation != expected.generation || header.total_bytes != total || mapped < total) {
    return Fail(
        Error(StatusCode::kInternal,
              "the board is of {} ranks, windows of {} bytes, generation {}, {} bytes in all "
              "({} mapped); expected {}, {}, {}, {}",
              header.size, header.window_bytes, header.generation, header.total_bytes, mapped,
              expected.size, expected.window_bytes, expected.generation, total));
  }
  return std::shared_ptr<Board>(new Board(std::move(segment), expected));
}

void Board::FreeWithin(const Board& host, std::size_t offset, const BoardOptions& options) {
  Segment::FreePart(host.fd(), offset, Layout(options).total);
}

std::size_t Board::BytesFor(const BoardOptions& options) {
  return RoundUp(Layout(options).total, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
}

std::size_t Board::window_bytes(Lane lane) const { return WindowBytes(options_, lane); }

std::span<std::byte> Board::window(Lane lane, int rank, int index) const {
  Check(rank >= 0 && rank < options_.size, "a rank of this board");
  Check(index >= 0 && index < kWindowsPerRank, "a window of the rank");
  const auto number = static_cast<std::size_t>(rank) * kWindowsPerRank + index;
  std::byte* const first = windows_[static_cast<int>(lane)];
  return {first + number * WindowStride(options_, lane), WindowBytes(options_, lane)};
}

ByteRing Board::UpRing(int rank) const { return Ring(2 * rank); }

ByteRing Board::DownRing(int rank) const { return Ring(2 * rank + 1); }

ByteRing Board::Ring(int index) const {
  Check(index >= 0 && index < 2 * options_.size, "a rank of this board");
  std::byte* const start = ring_bytes_ + static_cast<std::size_t>(index) * kControlRingBytes;
  return ByteRing(ring_states_[index], {start, kControlRingBytes});
}

void Board::Abort(int origin, const Status& cause) {
  std::uint64_t running = AbortWord(0, kRunning);
  if (header_->abort_word.compare_exchange_strong(running, AbortWord(origin, kRecording))) {
    const std::string_view text = CutAtCharacter(cause.message(), kTextBytes);
    const StatusCode code = cause.ok() ? StatusCode::kInternal : cause.code();
    header_->cause_code = static_cast<std::uint32_t>(code);
    header_->cause_length = static_cast<std::uint32_t>(text.size());
    std::copy(text.begin(), text.end(), header_->cause_text);
    header_->abort_word.store(AbortWord(origin, kRecorded));
  }
  // Also when another cause was first: whoever recorded it may have died before waking the others.
  for (int rank = 0; rank < options_.size; ++rank) flags_[rank].doorbell.Wake();
}

bool Board::aborted() const { return PhaseOf(header_->abort_word.load()) != kRunning; }

int Board::abort_origin() const {
  const std::uint64_t word = header_->abort_word.load();
  return PhaseOf(word) == kRunning ? -1 : OriginOf(word);
}

Status Board::abort_status() const {
  std::uint64_t word = header_->abort_word.load();
  if (PhaseOf(word) == kRunning) return Status::Ok();
  const TimePoint end = SteadyClock::Instance().Now() + kRecordPatience;
  while (PhaseOf(word) == kRecording && SteadyClock::Instance().Now() < end) {
    YieldCore();
    word = header_->abort_word.load();
  }
  if (PhaseOf(word) != kRecorded) {
    return Error(
        StatusCode::kPeerFailed,
        "the group was aborted because of rank {}, but the cause was not written: the rank "
        "that noticed it died as well",
        OriginOf(word));
  }
  const std::uint32_t code = header_->cause_code;
  const std::size_t length = std::min<std::size_t>(header_->cause_length, kTextBytes);
  const bool known = code != 0 && code <= static_cast<std::uint32_t>(StatusCode::kInternal);
  return Status(known ? static_cast<StatusCode>(code) : StatusCode::kInternal,
                std::string(header_->cause_text, length));
}

void Board::RingAll(int except_rank, bool urgent) const {
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank != except_rank) flags_[rank].doorbell.Ring(urgent);
  }
}

}  // namespace hora
