#!/usr/bin/env bash
# Build every fuzz target of tests/fuzz with clang and run each of them for some seconds. What they
# learn stays in build/fuzz/corpus; an input that breaks something is left in build/fuzz/findings.
#
# Usage: tools/run_fuzzers.sh [SECONDS [TARGET...]]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
if [ $# -gt 0 ]; then shift; fi

compiler=
for candidate in ${CXX:-} clang++ clang++-{20,19,18,17,16,15,14}; do
  if command -v "$candidate" >/dev/null && "$candidate" --version | grep -q clang; then
    compiler=$candidate
    break
  fi
done
if [ -z "$compiler" ]; then
  echo "run_fuzzers: no clang++ is installed (Debian: apt-get install clang)" >&2
  exit 1
fi

build=${FUZZ_BUILD_DIR:-build/fuzz}
mkdir -p "$build"
cmake --preset fuzz -B "$build" -DCMAKE_CXX_COMPILER="$compiler" >"$build/configure.log" ||
  { cat "$build/configure.log"; exit 1; }
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  for source in tests/fuzz/*_fuzz.cc; do targets+=("$(basename "$source" .cc)"); done
fi

cmake --build "$build" --target "${targets[@]}"

mkdir -p "$build/findings"
number=0
for target in "${targets[@]}"; do
  number=$((number + 1))
  corpus=$build/corpus/$target
  mkdir -p "$corpus"
  printf '[%d/%d] %s: %s s … ' "$number" "${#targets[@]}" "$target" "$seconds"
  if ! "$build/tests/fuzz/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
    -malloc_limit_mb=256 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$build/findings/$target-" "$corpus" >"$build/$target.log" 2>&1; then
    echo 'FAILED'
    tail -n 60 "$build/$target.log" >&2
    exit 1
  fi
  echo "$(awk '/number_of_executed_units/ {print $2}' "$build/$target.log") inputs," \
    "$(find "$corpus" -type f | wc -l) kept"
done
echo "fuzz: nothing found"
