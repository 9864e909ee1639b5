#include "hora/net/store_stream.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"

namespace hora {
namespace {

constexpr std::size_t kLengthBytes = 4;
constexpr std::size_t kGrowthBytes = 64u << 10;  // a message grows with what has come of it

}  // namespace

Result<StoreFrame> MakeStoreFrame(const StoreMessage& message) {
  std::vector<std::byte> frame;
  if (Status status = EncodeStoreMessage(message, frame); !status.ok()) return Fail(status);
  std::array<std::byte, kLengthBytes> length;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(frame.size() >> (8 * i));
  }
  frame.insert(frame.begin(), length.begin(), length.end());
  return std::make_shared<const std::vector<std::byte>>(std::move(frame));
}

StoreStream::StoreStream(Channel channel, std::size_t most_bytes)
    : channel_(std::move(channel)), most_bytes_(most_bytes) {}

Status StoreStream::Send(StoreFrame frame) {
  Check(sending_ == nullptr, "a store stream sends one message at a time");
  sending_ = std::move(frame);
  sent_ = 0;
  const Result<bool> flushed = Flush();
  return flushed ? Status::Ok() : flushed.error();
}

Result<bool> StoreStream::Flush() {
  if (sending_ == nullptr) return true;
  while (sent_ < sending_->size()) {
    const Result<std::size_t> taken = channel_.Write(std::span(*sending_).subspan(sent_));
    if (!taken) return Fail(taken.error());
    if (*taken == 0) return false;
    sent_ += *taken;
  }
  Result<bool> flushed = channel_.Flush();
  if (flushed && *flushed) sending_ = nullptr;
  return flushed;
}

Result<std::optional<StoreMessage>> StoreStream::Receive() {
  for (;;) {
    std::span<std::byte> into;
    if (received_ < kLengthBytes) {
      into = std::span(length_).subspan(received_);
    } else {
      std::size_t bytes = 0;
      for (std::size_t i = 0; i < kLengthBytes; ++i) {
        bytes |= std::to_integer<std::size_t>(length_[i]) << (8 * i);
      }
      if (bytes > most_bytes_) {
        return Fail(Error(StatusCode::kInternal,
                          "it announced a store message of {} bytes; {} "
                          "are allowed",
                          bytes, most_bytes_));
      }
      const std::size_t have = received_ - kLengthBytes;
      if (have == bytes) break;
      if (have == message_.size()) message_.resize(std::min(bytes, have + kGrowthBytes));
      into = std::span(message_).subspan(have);
    }
    const Result<std::size_t> got = channel_.Read(into);
    if (!got) return Fail(got.error());
    if (*got == 0) return std::nullopt;
    received_ += *got;
  }
  Result<StoreMessage> message = DecodeStoreMessage(message_);
  received_ = 0;
  message_.clear();
  if (!message) return Fail(std::move(message.error()));
  return std::optional<StoreMessage>(std::move(*message));
}

}  // namespace hora
