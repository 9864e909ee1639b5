// Events as the text of a Chrome trace.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

#include "hora/base/clock.h"
#include "hora/observe/timeline_queue.h"

namespace hora {

// The wall clock at a moment of the monotonic one. Taken once a file, so that times never go back.
struct WallClockAnchor {
  TimePoint moment;
  std::int64_t since_epoch_ns = 0;
};

// One process per rank, one track per tensor with the phases of its operations, one track of
// batches per process set and lane. Whatever events are missing (the trace began in the middle, or
// some were dropped), a phase never ends that did not begin, and one ends before the next begins.
//
// Pure text; one thread at a time. Remembers every name that it has seen.
class TimelineFormat {
 public:
  TimelineFormat(int rank, bool mark_cycles, WallClockAnchor anchor);

  void Begin(std::string& out);  // "[" and who this is
  void Append(const TraceBatch& batch, std::string& out);
  void End(std::string& out);  // "]": strict JSON from here on

 private:
  enum class Phase : std::uint8_t { kNone, kNegotiating, kRunning };
  struct Track {
    int id = 0;
    Phase phase = Phase::kNone;
    std::uint64_t bytes = 0;
  };
  struct Set {
    Track batches;
    Track bulk_batches;     // no id: there were none yet
    bool agreeing = false;  // the last event was an operation of the current agreement
  };
  using TrackKey = std::tuple<std::int32_t, OpKind, std::string>;

  void Write(const TraceEvent& event, std::string_view name, std::string_view error,
             std::string& out);
  void WriteCycle(const TraceEvent& event, Set& set, std::string& out);
  void WriteBatch(const TraceEvent& event, Set& set, std::string_view error, std::string& out);
  void WritePhase(const TraceEvent& event, Track& track, std::string_view error, std::string& out);

  Track& TrackOf(const TraceEvent& event, std::string_view name, std::string& out);
  Set& SetOf(const TraceEvent& event, std::string& out);
  Track& BatchesOf(const TraceEvent& event, Set& set, std::string& out);
  Track NewTrack(std::string_view label, std::string& out);
  std::string Head(char phase, std::string_view name, int track, TimePoint time) const;

  const int rank_;
  const bool mark_cycles_;
  const WallClockAnchor anchor_;
  TimePoint last_;
  int next_track_ = 0;
  std::map<TrackKey, Track> tracks_;
  std::map<std::int32_t, Set> sets_;
};

// `text` as the inside of a JSON string; bytes that are not UTF-8 become U+FFFD.
std::string JsonEscaped(std::string_view text);

}  // namespace hora
