#include "hora/observe/timeline_format.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

std::string Upper(std::string_view word) {
  std::string upper(word);
  std::transform(upper.begin(), upper.end(), upper.begin(), [](char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  return upper;
}

// "allreduce.grad.w"; the names that operations without one get begin with their kind already.
std::string TrackLabel(const TraceEvent& event, std::string_view name) {
  const std::string kind(ToString(event.op));
  const std::string set =
      event.process_set == 0 ? "" : fmt::format("process set {}: ", event.process_set);
  if (name.starts_with(kind + ".")) return fmt::format("{}{}", set, name);
  return fmt::format("{}{}.{}", set, kind, name);
}

std::string ErrorArgs(std::string_view error) {
  if (error.empty()) return "{}";
  return fmt::format(R"({{"error":"{}"}})", JsonEscaped(error));
}

// The length of the UTF-8 sequence at the start of `text`, 0 when it is none.
std::size_t SequenceLength(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t length = lead < 0x80                   ? 1
                             : lead >= 0xC2 && lead < 0xE0 ? 2
                             : lead >= 0xE0 && lead < 0xF0 ? 3
                             : lead >= 0xF0 && lead < 0xF5 ? 4
                                                           : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Too long for what they say, or halves of a surrogate pair, or above U+10FFFF.
  if (lead == 0xE0 && byte(1) < 0xA0) return 0;
  if (lead == 0xED && byte(1) > 0x9F) return 0;
  if (lead == 0xF0 && byte(1) < 0x90) return 0;
  if (lead == 0xF4 && byte(1) > 0x8F) return 0;
  return length;
}

std::string InSet(const TraceEvent& event, std::string_view what) {
  if (event.process_set == 0) return std::string(what);
  return fmt::format("process set {}: {}", event.process_set, what);
}

}  // namespace

std::string JsonEscaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = SequenceLength(text);
    const char first = text.front();
    if (length == 0) {
      out += "\xEF\xBF\xBD";
    } else if (first == '"' || first == '\\') {
      out += '\\';
      out += first;
    } else if (static_cast<unsigned char>(first) < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<int>(first));
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

TimelineFormat::TimelineFormat(int rank, bool mark_cycles, WallClockAnchor anchor)
    : rank_(rank), mark_cycles_(mark_cycles), anchor_(anchor), last_(anchor.moment) {}

void TimelineFormat::Begin(std::string& out) {
  // Every later event starts with a comma, so that the file is well-formed up to its last line.
  fmt::format_to(std::back_inserter(out),
                 R"([
{{"name":"process_name","ph":"M","pid":{0},"args":{{"name":"rank {0}"}}}},
{{"name":"process_sort_index","ph":"M","pid":{0},"args":{{"sort_index":{0}}}}},
{{"name":"start_time_since_epoch_in_micros","ph":"M","pid":{0},"args":{{)"
                 R"("start_time_since_epoch_in_micros":{1}}}}})",
                 rank_, anchor_.since_epoch_ns / 1000);
}

void TimelineFormat::End(std::string& out) { out += "\n]\n"; }

void TimelineFormat::Append(const TraceBatch& batch, std::string& out) {
  std::string_view text = batch.text;
  for (const TraceEvent& event : batch.events) {
    const std::string_view name = text.substr(0, event.name_size);
    const std::string_view error = text.substr(event.name_size, event.error_size);
    text.remove_prefix(name.size() + error.size());
    last_ = event.time;
    Write(event, name, error, out);
  }
  if (batch.dropped > 0) {
    out += Head('i', fmt::format("{} events dropped", batch.dropped), 0, last_);
    fmt::format_to(std::back_inserter(out), R"(,"s":"p","args":{{"dropped":{}}}}})", batch.dropped);
  }
}

void TimelineFormat::Write(const TraceEvent& event, std::string_view name, std::string_view error,
                           std::string& out) {
  switch (event.point) {
    case TracePoint::kBatchBegin:
    case TracePoint::kBatchEnd:
      WriteBatch(event, SetOf(event, out), error, out);
      break;
    case TracePoint::kAgreed:
      if (mark_cycles_) WriteCycle(event, SetOf(event, out), out);
      WritePhase(event, TrackOf(event, name, out), error, out);
      break;
    case TracePoint::kSubmit:
    case TracePoint::kComplete:
      WritePhase(event, TrackOf(event, name, out), error, out);
      break;
  }
}

// The operations of one agreement are told one after the other, before the first of its batches.
void TimelineFormat::WriteCycle(const TraceEvent& event, Set& set, std::string& out) {
  if (std::exchange(set.agreeing, true)) return;
  out += Head('i', "CYCLE_START", set.batches.id, event.time);
  out += R"(,"s":"p"})";
}

void TimelineFormat::WriteBatch(const TraceEvent& event, Set& set, std::string_view error,
                                std::string& out) {
  set.agreeing = false;
  Track& batches = BatchesOf(event, set, out);
  const Phase after = event.point == TracePoint::kBatchBegin ? Phase::kRunning : Phase::kNone;
  if (batches.phase == Phase::kRunning) {
    out += Head('E', "", batches.id, event.time);
    fmt::format_to(std::back_inserter(out), R"(,"args":{}}})", ErrorArgs(error));
  }
  batches.phase = after;
  if (after == Phase::kNone) return;
  out += Head('B', Upper(ToString(event.op)), batches.id, event.time);
  fmt::format_to(std::back_inserter(out),
                 R"(,"args":{{"members":{},"bytes":{},"process_set":{}}}}})", event.members,
                 event.bytes, event.process_set);
}

void TimelineFormat::WritePhase(const TraceEvent& event, Track& track, std::string_view error,
                                std::string& out) {
  if (track.phase != Phase::kNone) {
    out += Head('E', "", track.id, event.time);
    fmt::format_to(std::back_inserter(out), R"(,"args":{}}})", ErrorArgs(error));
  }
  track.phase = Phase::kNone;
  if (event.point == TracePoint::kComplete) return;
  const bool negotiating = event.point == TracePoint::kSubmit;
  track.phase = negotiating ? Phase::kNegotiating : Phase::kRunning;
  if (negotiating) track.bytes = event.bytes;
  const std::string kind = Upper(ToString(event.op));
  out += Head('B', negotiating ? "NEGOTIATE_" + kind : kind, track.id, event.time);
  fmt::format_to(std::back_inserter(out), R"(,"args":{{"bytes":{},"process_set":{}}}}})",
                 track.bytes, event.process_set);
}

TimelineFormat::Track& TimelineFormat::TrackOf(const TraceEvent& event, std::string_view name,
                                               std::string& out) {
  TrackKey key(event.process_set, event.op, name);
  auto found = tracks_.find(key);
  if (found == tracks_.end()) {
    const Track fresh = NewTrack(TrackLabel(event, name), out);
    found = tracks_.emplace(std::move(key), fresh).first;
  }
  return found->second;
}

TimelineFormat::Set& TimelineFormat::SetOf(const TraceEvent& event, std::string& out) {
  auto found = sets_.find(event.process_set);
  if (found == sets_.end()) {
    Set set{.batches = NewTrack(InSet(event, "batches"), out), .bulk_batches = {}};
    found = sets_.emplace(event.process_set, set).first;
  }
  return found->second;
}

TimelineFormat::Track& TimelineFormat::BatchesOf(const TraceEvent& event, Set& set,
                                                 std::string& out) {
  if (!event.bulk) return set.batches;
  if (set.bulk_batches.id == 0) set.bulk_batches = NewTrack(InSet(event, "bulk batches"), out);
  return set.bulk_batches;
}

TimelineFormat::Track TimelineFormat::NewTrack(std::string_view label, std::string& out) {
  const Track track{.id = ++next_track_};
  fmt::format_to(std::back_inserter(out),
                 ",\n"
                 R"({{"name":"thread_name","ph":"M","pid":{},"tid":{},"args":{{"name":"{}"}}}})",
                 rank_, track.id, JsonEscaped(label));
  return track;
}

std::string TimelineFormat::Head(char phase, std::string_view name, int track,
                                 TimePoint time) const {
  const std::int64_t ns =
      anchor_.since_epoch_ns +
      std::chrono::duration_cast<std::chrono::nanoseconds>(time - anchor_.moment).count();
  const std::string named = name.empty() ? "" : fmt::format(R"("name":"{}",)", name);
  return fmt::format(
      ",\n"
      R"({{{}"ph":"{}","pid":{},"tid":{},"ts":{}.{:03})",
      named, phase, rank_, track, ns / 1000, ns % 1000);
}

}  // namespace hora
