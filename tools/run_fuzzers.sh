#!/usr/bin/env bash
# Build every fuzz target of tests/fuzz with clang and run each of them for some seconds, two at
# once where there are two cores. They begin with tests/fuzz/seeds; what they learn stays in
# build/fuzz/corpus; an input that breaks something is left in build/fuzz/findings.
#
# Usage: tools/run_fuzzers.sh [SECONDS [TARGET...]]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
if [ $# -gt 0 ]; then shift; fi
build=${FUZZ_BUILD_DIR:-build/fuzz}
mkdir -p "$build/findings"

# A clang that has libFuzzer, which some packages leave out.
find_compiler() {
  local candidate
  for candidate in ${CXX:-} clang++ clang++-{20,19,18,17,16,15,14}; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -fsanitize=fuzzer,address -x c++ - -o "$build/probe" 2>/dev/null \
        <<<'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
    then
      echo "$candidate"
      return
    fi
  done
}

compiler=$(find_compiler)
if [ -z "$compiler" ]; then
  echo "fuzz: skipped: no clang++ with libFuzzer is installed" \
    "(Debian: apt-get install clang-14 libclang-rt-14-dev)"
  exit 0
fi

cmake --preset fuzz -B "$build" -DCMAKE_CXX_COMPILER="$compiler" >"$build/configure.log" ||
  { cat "$build/configure.log"; exit 1; }
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  for source in tests/fuzz/*_fuzz.cc; do targets+=("$(basename "$source" .cc)"); done
fi
cmake --build "$build" --target "${targets[@]}"

# One target; its last line says what came of it.
fuzz() {
  local target=$1 corpus=$build/corpus/$1 seeds=tests/fuzz/seeds/$1 log=$build/$1.log
  local folders=("$corpus")
  mkdir -p "$corpus"
  if [ -d "$seeds" ]; then folders+=("$seeds"); fi
  if ! "$build/tests/fuzz/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
    -malloc_limit_mb=256 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$build/findings/$target-" "${folders[@]}" >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "$target: FAILED; its input is in $build/findings, all it said in $log"
    return 1
  fi
  echo "$target: $(awk '/number_of_executed_units/ {print $2}' "$log") inputs in $seconds s," \
    "$(find "$corpus" -type f | wc -l) kept"
}

echo "fuzz: ${#targets[@]} targets, $seconds s each"
most=$(($(nproc) < 2 ? 1 : 2))
running=0
failed=0
for target in "${targets[@]}"; do
  if [ "$running" = "$most" ]; then
    wait -n || failed=1
    running=$((running - 1))
  fi
  fuzz "$target" &
  running=$((running + 1))
done
for ((; running > 0; running--)); do wait -n || failed=1; done
if [ "$failed" = 1 ]; then exit 1; fi
echo "fuzz: nothing found"
