#include "hora/observe/timeline.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "hora/base/format.h"
#include "hora/observe/timeline_format.h"

namespace hora {
namespace {

// How old an event may be before it is in the file.
constexpr Duration kPatience = std::chrono::milliseconds(20);

WallClockAnchor AnchorNow(const Clock& clock) {
  using std::chrono::system_clock;
  const auto wall = system_clock::now().time_since_epoch();
  return {.moment = clock.Now(),
          .since_epoch_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(wall).count()};
}

}  // namespace

struct Timeline::File {
  std::string path;
  int descriptor = -1;
  TimelineFormat format;
  Status status;  // the first thing that went wrong

  File(std::string file_path, int fd, TimelineFormat text)
      : path(std::move(file_path)), descriptor(fd), format(std::move(text)) {}
  ~File() { close(descriptor); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void Write(std::string_view text) {
    while (status.ok() && !text.empty()) {
      const ssize_t written = write(descriptor, text.data(), text.size());
      if (written >= 0) {
        text.remove_prefix(static_cast<std::size_t>(written));
      } else if (errno != EINTR) {
        status = Error(StatusCode::kResource, "the timeline '{}' is incomplete: write: {}", path,
                       std::strerror(errno));
      }
    }
  }
};

Timeline::Timeline(int rank, const Clock& clock) : rank_(rank), clock_(clock) {}

Timeline::~Timeline() {
  if (on()) static_cast<void>(Stop());
}

Status Timeline::Start(const std::string& path, bool mark_cycles) {
  const std::lock_guard lock(control_mutex_);
  const Status completed = Complete();  // first: it may be the same file
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return Error(StatusCode::kResource, "the timeline '{}' cannot be written: {}", path,
                 std::strerror(errno));
  }
  file_ = std::make_unique<File>(path, descriptor,
                                 TimelineFormat(rank_, mark_cycles, AnchorNow(clock_)));
  queue_.Open();
  try {
    writer_ = std::thread([this] { Write(*file_); });
  } catch (const std::system_error& failure) {  // nobody writes: there is no file, either
    queue_.Close();
    file_ = nullptr;
    return Error(StatusCode::kResource, "the timeline '{}' has no thread to write it: {}", path,
                 failure.what());
  }
  on_.store(true, std::memory_order_relaxed);
  return completed;
}

Status Timeline::Stop() {
  const std::lock_guard lock(control_mutex_);
  if (file_ == nullptr) {
    return Error(StatusCode::kInvalidArgument, "no timeline is being written; start one first");
  }
  return Complete();
}

Status Timeline::Complete() {
  if (file_ == nullptr) return Status::Ok();
  on_.store(false, std::memory_order_relaxed);
  queue_.Close();
  writer_.join();
  return std::exchange(file_, nullptr)->status;
}

void Timeline::Write(File& file) {
  std::string text;
  TraceBatch batch;
  file.format.Begin(text);
  file.Write(text);
  bool more = true;
  while (more) {
    text.clear();
    batch.Clear();
    more = queue_.Take(batch, kPatience);
    file.format.Append(batch, text);
    file.Write(text);
  }
  text.clear();
  file.format.End(text);
  file.Write(text);
}

void Timeline::Record(TraceEvent event, const OpLabel& label, const Status* status) {
  event.op = label.kind;
  event.process_set = label.process_set;
  event.bulk = label.bulk;
  const bool failed = status != nullptr && !status->ok();
  queue_.Push(event, label.name, failed ? std::string_view(status->message()) : "", clock_);
}

void Timeline::OnSubmit(const OpLabel& label, std::uint64_t bytes) {
  if (on()) Record({.point = TracePoint::kSubmit, .bytes = bytes}, label, nullptr);
}

void Timeline::OnAgreed(const OpLabel& label) {
  if (on()) Record({.point = TracePoint::kAgreed}, label, nullptr);
}

void Timeline::OnBatchBegin(const OpLabel& label, std::size_t members, std::uint64_t bytes) {
  if (!on()) return;
  Record({.point = TracePoint::kBatchBegin,
          .bytes = bytes,
          .members = static_cast<std::uint32_t>(members)},
         label, nullptr);
}

void Timeline::OnBatchEnd(const OpLabel& label, const Status& status) {
  if (on()) Record({.point = TracePoint::kBatchEnd}, label, &status);
}

void Timeline::OnComplete(const OpLabel& label, const Status& status) {
  if (on()) Record({.point = TracePoint::kComplete}, label, &status);
}

}  // namespace hora
