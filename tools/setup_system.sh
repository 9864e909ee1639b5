#!/usr/bin/env bash
# Install the Debian packages that are missing, when that is possible: root and apt-get.
# Otherwise say what must be there; libraries that are missing are then fetched by CMake.
#
# Usage: [HORA_SETUP_ALL=1] [HORA_SETUP_FUZZ=1] tools/setup_system.sh PYTHON
set -euo pipefail

python=$1
wanted=(g++ cmake ninja-build libgtest-dev libbenchmark-dev libfmt-dev libexpected-dev
  libflatbuffers-dev flatbuffers-compiler libssl-dev)
# For the tests of several hosts on one machine, which are skipped without them. Only on request:
# the package also starts a daemon that lets people log in.
if [ -n "${HORA_SETUP_ALL:-}" ]; then wanted+=(openssh-server openssh-client iproute2); fi
# Plugins are built for those that are there; nothing needs them.
optional=(libgloo-dev libopenmpi-dev openmpi-bin libmpich-dev mpich)
# For the tests of schedulers; these, too, install daemons, which the tests start by themselves.
if [ -n "${HORA_SETUP_ALL:-}" ]; then optional+=(slurmctld slurmd slurm-client munge); fi
# For the fuzz targets (make fuzz).
if [ -n "${HORA_SETUP_ALL:-}${HORA_SETUP_FUZZ:-}" ]; then
  optional+=(clang-14 libclang-rt-14-dev)
fi
# The interpreter's own packages: only when it is the system's and lacks them.
"$python" -c 'import ensurepip' 2>/dev/null || wanted+=(python3-venv)
"$python" - <<'PY' 2>/dev/null || wanted+=(python3-dev)
import pathlib, sysconfig
assert (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists()
PY

# Of the packages named, those that are not installed.
missing() {
  local package status
  for package in "$@"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || echo "$package"
  done
}

# Older releases lack some libraries; CMake fetches those, or does without.
install_available() {
  local package available=()
  for package in "$@"; do
    if apt-cache show "$package" >/dev/null 2>&1; then available+=("$package"); fi
  done
  [ ${#available[@]} = 0 ] || apt-get install -y -qq --no-install-recommends "${available[@]}" >/dev/null
}

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  mapfile -t needed < <(missing "${wanted[@]}")
  mapfile -t nice < <(missing "${optional[@]}")
  if [ ${#needed[@]} -gt 0 ] || [ ${#nice[@]} -gt 0 ]; then
    echo "setup: apt-get install" "${needed[@]}" "${nice[@]}"
    export DEBIAN_FRONTEND=noninteractive
    if [ ${#needed[@]} -gt 0 ]; then apt-get update -qq; else apt-get update -qq || true; fi
    install_available "${needed[@]}"
    install_available "${nice[@]}" || echo "setup: going on without ${nice[*]}"
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
