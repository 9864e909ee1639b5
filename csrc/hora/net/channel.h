// An authenticated stream of bytes to another process of the job.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "hora/base/result.h"
#include "hora/base/unique_fd.h"

namespace hora {

// How the bytes after the handshake travel. All handshakes prove the job's key both ways.
enum class Protection : std::uint8_t {
  kTls = 1,       // TLS 1.3 with the job's pre-shared key: secret and authentic
  kMac = 2,       // records with HMAC-SHA-256 and a number: authentic, readable
  kChecksum = 3,  // records with CRC-32C: authenticated at the start, then against accidents only
};

// Owns the socket. One thread may write while another one reads. Nothing blocks; a process that is
// gone, a record that was changed and a protocol error are kPeerFailed, and final.
//
// Made by Handshake.
class Channel {
 public:
  class Records;  // the protection: what lies between these calls and the socket

  Channel(UniqueFd socket, Protection protection, std::unique_ptr<Records> records);
  Channel(Channel&&) noexcept;
  Channel& operator=(Channel&&) noexcept;
  ~Channel();

  Protection protection() const { return protection_; }
  int fd() const { return socket_.get(); }

  // How many of the first bytes were taken; 0: not now. Bytes once offered must be offered again,
  // first, until they are taken (a record may be under way that promises them).
  Result<std::size_t> Write(std::span<const std::byte> bytes);
  // How many bytes were delivered; 0: not now. None is delivered before its record is proved,
  // except under kChecksum, where a wrong record is reported by a later call.
  Result<std::size_t> Read(std::span<std::byte> into);

  // Bytes that were taken and wait for the socket to be writable: true when none are left.
  Result<bool> Flush();
  // Bytes that Read would deliver although the socket has nothing.
  bool HasUnread() const;

  // Every later call fails, here and at the other end; wakes whoever polls. Any thread.
  void Abort() const noexcept;

 private:
  template <class T>
  Result<T> Answer(Result<T> result) const;

  UniqueFd socket_;
  Protection protection_;
  std::unique_ptr<Records> records_;
};

}  // namespace hora
