#!/usr/bin/env bash
# Everything that needs a GPU: kernels against the CPU, the tests of the ranks with tensors on the GPU
# (1 rank over NCCL; 2 and 4 ranks that share it, through the host's memory), compute-sanitizer over a
# few of them. Says what ran, and with which versions. Without nvcc or without a GPU it says so, and
# succeeds: nothing was shown, nothing is broken.
#
# Usage: [PYTHON=python] [PARTS="cpp np1 np2 np4 sanitizer"] tools/run_gpu_tests.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/gpu_build.sh
. tools/gpu_build.sh

parts=" ${PARTS:-cpp np1 np2 np4 sanitizer} "
logs=build/test-logs/gpu
limit_s=400
export OMP_NUM_THREADS=1
ran=() failed=() skipped=()

wanted() { [[ $parts == *" $1 "* ]]; }

# NAME COMMAND…: runs it and remembers how it went.
run() {
  local name=$1 code=0
  shift
  echo "test-gpu: $name: $*"
  local begin=$SECONDS
  timeout "$limit_s" "$@" || code=$?
  if [ "$code" = 0 ]; then
    ran+=("$name ($((SECONDS - begin)) s)")
  else
    failed+=("$name (code $code)")
  fi
}

# NAME RANKS BACKEND TEST…: pytest on ranks; rank 0's summary, or the end of what every rank said.
run_ranks() {
  local name=$1 ranks=$2 backend=$3 before=${#failed[@]} rank
  shift 3
  rm -rf "${logs:?}/$name"
  mkdir -p "$logs/$name"
  run "$name" "$python" -m hora.launch -np "$ranks" --gpu-backend "$backend" --quiet \
    --output-dir "$logs/$name" "$python" -m pytest -p no:cacheprovider -q "$@"
  if [ ${#failed[@]} = "$before" ]; then
    tail -n 3 "$logs/$name/rank.0/stdout"
    if ! grep -q ' passed' "$logs/$name/rank.0/stdout"; then failed+=("$name (nothing ran)"); fi
    return
  fi
  for ((rank = 0; rank < ranks; rank++)); do
    echo "--- end of rank $rank's output"
    tail -n 40 "$logs/$name/rank.$rank"/stdout "$logs/$name/rank.$rank"/stderr || true
  done
}

# The tests of the ranks, but for those of simulated devices, and for compilers that take minutes.
everything=(tests/python/parallel --device=cuda --deselect
  tests/python/parallel/test_parallel_device.py -k "not inductor")
brief=(tests/python/parallel/test_parallel_{operations,exchanges,optimizer}.py --device=cuda)

run_cpp() {
  run kernels build/gpu/tests/gpu/gpu_test --gtest_brief=1
  run pack_bench build/gpu/tests/gpu/pack_bench
}

run_on_ranks() {
  if wanted np1; then
    run_ranks np1-nccl 1 nccl tests/gpu
    run_ranks np1-nccl-parallel 1 nccl "${everything[@]}"
    run slices "$python" -m hora.launch -np 1 --gpus-per-rank 1 "$python" -c \
      'import torch; assert torch.cuda.device_count() == 1; torch.ones(1, device="cuda")'
  fi
  if wanted np2; then
    run_ranks np2-staged 2 auto tests/gpu
    run_ranks np2-staged-parallel 2 auto "${everything[@]}"
  fi
  if wanted np4; then
    run_ranks np4-staged 4 staged tests/gpu
    run_ranks np4-staged-parallel 4 staged "${brief[@]}"
  fi
}

run_sanitizer() {
  local sanitizer said
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [ ! -x "$sanitizer" ]; then
    skipped+=("sanitizer: there is no compute-sanitizer")
    return
  fi
  local memcheck=("$sanitizer" --tool memcheck --report-api-errors no --error-exitcode 99)
  local program=build/gpu/tests/gpu/gpu_test
  said=$(timeout 60 "${memcheck[@]}" "$program" --gtest_filter='*KnowsItsDevices' 2>&1 || true)
  if grep -q 'not supported' <<<"$said"; then
    skipped+=("sanitizer: $(grep -m 1 'not supported' <<<"$said")")
    return
  fi
  run memcheck-kernels "${memcheck[@]}" "$program" --gtest_brief=1 --gtest_filter='-*FourGigabytes*'
  # Without PyTorch's caching: else what is freed is still somebody's.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 HORA_GPU_BACKEND=nccl run memcheck-python "${memcheck[@]}" \
    "$python" -m pytest -p no:cacheprovider -q --timeout="$limit_s" tests/gpu/test_errors.py \
    -k "stay_on_the_device or beside_gpu_tensors"
}

choose_python
echo "test-gpu: with $("$python" --version), $python"
if ! build_for_gpu; then
  echo "test-gpu: nothing to run: the CUDA plugin is not built (see cmake's output above)"
  exit 0
fi
"$python" -m hora.cli check | sed -n '/^Versions:/,/^This machine:/{/^This machine:/!p}'
if ! has_gpu; then
  build/gpu/tests/gpu/gpu_test --gtest_brief=1 | tail -n 4
  echo "test-gpu: THERE IS NO GPU HERE that PyTorch can use: what needs one was built, and not run"
  exit 0
fi
if wanted cpp; then run_cpp; fi
run_on_ranks
if wanted sanitizer; then run_sanitizer; fi
printf 'test-gpu: passed: %s\n' "${ran[@]:-nothing}"
if [ ${#skipped[@]} -gt 0 ]; then printf 'test-gpu: skipped: %s\n' "${skipped[@]}"; fi
if [ ${#failed[@]} -gt 0 ]; then
  printf 'test-gpu: FAILED: %s\n' "${failed[@]}"
  exit 1
fi
