#include "hora/net/port_holder.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr int kListening = 0x0a;  // TCP_LISTEN in /proc/net/tcp

// The inode of a listening socket with this port, whatever its address.
std::optional<unsigned long> ListeningInode(const char* table, std::uint16_t port) {
  std::ifstream lines(table);
  std::string line;
  std::getline(lines, line);  // the heading
  while (std::getline(lines, line)) {
    unsigned local_port = 0;
    unsigned state = 0;
    unsigned long inode = 0;
    const int read = std::sscanf(line.c_str(),
                                 "%*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*[0-9A-F]:%*[0-9A-F] "
                                 "%*[0-9A-F]:%*[0-9A-F] %*[0-9A-F] %*d %*d %lu",
                                 &local_port, &state, &inode);
    if (read == 3 && local_port == port && state == kListening) return inode;
  }
  return std::nullopt;
}

namespace fs = std::filesystem;

// A process that ends while it is looked at, or is another user's, holds nothing.
bool HoldsSocket(const fs::path& process, const std::string& socket) {
  std::error_code error;
  for (fs::directory_iterator entry(process / "fd", error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code unreadable;
    if (fs::read_symlink(entry->path(), unreadable) == socket) return true;
  }
  return false;
}

std::string ProcessHolding(unsigned long inode) {
  const std::string socket = fmt::format("socket:[{}]", inode);
  std::error_code error;
  for (fs::directory_iterator entry("/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string process = entry->path().filename();
    if (process.find_first_not_of("0123456789") != std::string::npos) continue;
    if (!HoldsSocket(entry->path(), socket)) continue;
    std::ifstream comm(entry->path() / "comm");
    std::string name;
    std::getline(comm, name);
    return fmt::format("process {} ({}) listens there", process, name);
  }
  return {};
}

}  // namespace

std::string HolderOfPort(const SocketAddress& address) {
  for (const char* const table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    const std::optional<unsigned long> inode = ListeningInode(table, address.port());
    if (!inode) continue;
    std::string holder = ProcessHolding(*inode);
    if (!holder.empty()) return holder;
  }
  return fmt::format("`ss -ltnp 'sport = :{}'` as root says who holds the port", address.port());
}

}  // namespace hora
