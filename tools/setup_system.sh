#!/usr/bin/env bash
# Install the Debian packages that are missing, when that is possible: root and apt-get.
# Otherwise say what must be there; libraries that are missing are then fetched by CMake.
#
# Usage: [HORA_SETUP_ALL=1] tools/setup_system.sh PYTHON
set -euo pipefail

python=$1
wanted=(g++ cmake ninja-build libgtest-dev libbenchmark-dev libfmt-dev libexpected-dev
  libflatbuffers-dev flatbuffers-compiler libssl-dev)
# For the tests of several hosts on one machine, which are skipped without them. Only on request:
# the package also starts a daemon that lets people log in.
if [ -n "${HORA_SETUP_ALL:-}" ]; then wanted+=(openssh-server openssh-client iproute2); fi
# The interpreter's own packages: only when it is the system's and lacks them.
"$python" -c 'import ensurepip' 2>/dev/null || wanted+=(python3-venv)
"$python" - <<'PY' 2>/dev/null || wanted+=(python3-dev)
import pathlib, sysconfig
assert (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists()
PY

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  missing=()
  for package in "${wanted[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Older releases lack some libraries; CMake fetches those.
    available=()
    for package in "${missing[@]}"; do
      if apt-cache show "$package" >/dev/null 2>&1; then available+=("$package"); fi
    done
    apt-get install -y -qq --no-install-recommends "${available[@]}" >/dev/null
  fi
fi

for tool in c++ git make; do
  if ! command -v "$tool" >/dev/null; then
    echo "setup: $tool is missing; install a C++20 compiler, git and make" \
      "(Debian: apt-get install g++ git make)" >&2
    exit 1
  fi
done
if ! c++ -std=c++20 -fsyntax-only -x c++ - <<<'#include <span>' 2>/dev/null; then
  echo "setup: $(c++ --version | head -n 1) does not compile C++20; g++ 11 or newer does" >&2
  exit 1
fi
