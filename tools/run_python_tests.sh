#!/usr/bin/env bash
# Python tests against the installed package: in one process, on 1, 2 and 4 ranks, whole jobs.
#
# A multi-rank run shows rank 0's own pytest output; when a rank fails, the end of every rank's.
set -euo pipefail
cd "$(dirname "$0")/.."

# Test processes share few cores, and reductions must not depend on how many threads torch takes.
export OMP_NUM_THREADS=1
pytest=(python -m pytest -p no:cacheprovider)
logs=build/test-logs

run_here() {
  local folder=$1
  if ! compgen -G "$folder/*.py" >/dev/null; then
    echo "run_python_tests: no tests in $folder, skipped"
    return
  fi
  "${pytest[@]}" "$folder"
}

# RANKS [BACKEND]
run_on_ranks() {
  local ranks=$1 backend=${2:-} folder=tests/python/parallel output=$logs/np$1${2:+-$2}
  if ! compgen -G "$folder/*.py" >/dev/null; then
    echo "run_python_tests: no tests in $folder, skipped"
    return
  fi
  rm -rf "$output"
  mkdir -p "$output"
  echo "run_python_tests: $folder on $ranks rank(s)${backend:+ over $backend}, logs in $output"
  local code=0
  timeout 900 horarun -np "$ranks" ${backend:+--backend "$backend"} --output-dir "$output" \
    "${pytest[@]}" "$folder" \
    >"$output/horarun.log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    rank_log "$output" 0 | tail -n 6
    return
  fi
  echo "run_python_tests: $ranks rank(s) ended with code $code" >&2
  tail -n 20 "$output/horarun.log" >&2
  for ((rank = 0; rank < ranks; rank++)); do
    echo "--- end of rank $rank's output" >&2
    rank_log "$output" "$rank" | tail -n 40 >&2
  done
  return "$code"
}

# The standard output of one rank, as horarun wrote it.
rank_log() { cat "$1/rank.$2/stdout"; }

run_here tests/python/unit
run_here tests/python/launch
for ranks in 1 2 4; do
  run_on_ranks "$ranks"
done
run_on_ranks 2 flat-tcp
if python -c 'import hora, pathlib; (pathlib.Path(hora.__file__).parent / "hora_gloo.so").stat()' 2>/dev/null; then
  run_on_ranks 2 flat-gloo
else
  echo "run_python_tests: the Gloo plugin is not built (Debian: libgloo-dev), skipped"
fi
run_here tests/python/integration
