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
# Which tests: all; those where it matters how bytes travel; the briefest part of these.
folder=tests/python/parallel
# shellcheck disable=SC2034  # used by name
everything=("$folder") travelling=(-m "not any_backend" "$folder")
# shellcheck disable=SC2034
brief=("$folder"/test_parallel_{operations,exchanges}.py)

run_here() {
  local folder=$1
  if ! compgen -G "$folder/*.py" >/dev/null; then
    echo "run_python_tests: no tests in $folder, skipped"
    return
  fi
  "${pytest[@]}" "$folder"
}

# NAME RANKS TESTS COMMAND…: tests on ranks that the command starts. It leaves rank N's output in
# $logs/NAME/rank.N/stdout.
run_on_ranks() {
  local name=$1 ranks=$2 output=$logs/$1
  local -n tests=$3
  shift 3
  rm -rf "$output"
  mkdir -p "$output"
  echo "run_python_tests: $name, logs in $output"
  local code=0
  timeout 900 "$@" "${pytest[@]}" "${tests[@]}" >"$output/starter.log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    rank_log "$output" 0 | tail -n 6
    return
  fi
  echo "run_python_tests: $name ended with code $code" >&2
  tail -n 20 "$output/starter.log" >&2
  for ((rank = 0; rank < ranks; rank++)); do
    echo "--- end of rank $rank's output" >&2
    rank_log "$output" "$rank" | tail -n 40 >&2
  done
  return "$code"
}

# The standard output of one rank.
rank_log() { cat "$1/rank.$2/stdout" || true; }

# RANKS: every test, over shared memory.
run_everything() { run_on_ranks "np$1" "$1" everything horarun -np "$1" --output-dir "$logs/np$1"; }

# BACKEND: over this one, on two ranks.
run_over() {
  local name=np2-$1
  run_on_ranks "$name" 2 travelling horarun -np 2 --backend "$1" --output-dir "$logs/$name"
}

# FAMILY TESTS OPTION…: over the MPI whose mpirun starts the ranks.
run_over_mpi() {
  local family=$1 which=$2 name=np2-flat-mpi-$1
  shift 2
  if ! command -v "mpirun.$family" >/dev/null; then
    echo "run_python_tests: no mpirun.$family (Debian: openmpi-bin, mpich), skipped"
  elif ! has_plugin "$([ "$family" = mpich ] && echo hora_mpi_mpich || echo hora_mpi_ompi)"; then
    echo "run_python_tests: the MPI plugin is not built (Debian: lib$family-dev), skipped"
  else
    HORA_BACKEND=flat-mpi HORA_RENDEZVOUS_DIR=$PWD/$logs/$name/jobs \
      run_on_ranks "$name" 2 "$which" "mpirun.$family" "$@" -np 2 \
      bash -c "$keep_output" "$logs/$name"
  fi
}

# mpirun mixes the ranks' output: each keeps its own.
# shellcheck disable=SC2016
keep_output='
mkdir -p "$0/rank.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"
exec "$@" >"$0/rank.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}/stdout" 2>&1'

has_plugin() {
  python -c 'import hora, pathlib, sys
(pathlib.Path(hora.__file__).parent / sys.argv[1]).stat()' "$1.so" 2>/dev/null
}

run_here tests/python/unit
run_here tests/python/launch
run_here tests/gpu # skipped without a GPU; make test-gpu runs them on ranks
for ranks in 1 2 4; do
  run_everything "$ranks"
done
run_over flat-tcp
if has_plugin hora_gloo; then
  run_over flat-gloo
else
  echo "run_python_tests: the Gloo plugin is not built (Debian: libgloo-dev), skipped"
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
run_over_mpi openmpi travelling --oversubscribe --bind-to none
run_over_mpi mpich brief
run_here tests/python/integration
