# The everyday words; `make` lists them. Each is a thin call to CMake presets, ctest, pip, pytest.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
JOBS   ?= $(shell nproc)
# The CUDA plugin: AUTO (where nvcc is found), REQUIRED, OFF.
HORA_CUDA ?= AUTO
# For what needs a GPU, PYTHON as it is where somebody has named one; else tools/gpu_build.sh looks.
ifneq ($(origin PYTHON),file)
  HORA_PYTHON ?= $(PYTHON)
endif

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := $(abspath $(VENV))/bin
# cmake and ninja may live in the virtual environment; ruff and clang-format always do.
export PATH := $(BIN):$(PATH)
# One compiler process per core, also inside pip; one thread per rank in tests.
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

# A stamp in the virtual environment dies with it.
SETUP   := $(VENV)/.hora-setup
INSTALL := $(VENV)/.hora-install
SOURCES := CMakeLists.txt pyproject.toml \
  $(shell find cmake csrc python -type f -not -path '*/__pycache__/*' 2>/dev/null)
# Of fuzzing, for each target.
SECONDS ?= 60
# ThreadSanitizer needs a fixed address layout on recent kernels.
FIXED_LAYOUT := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: help run setup build install test check lint format build-gpu test-gpu bench-gpu asan \
  asan-ci tsan fuzz tidy bench docs clean

help: ## List these words
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(INSTALL) ## Train the digits example on 2 ranks, from a fresh clone in one command
	$(BIN)/horarun -np 2 $(BIN)/python examples/02_mnist_mlp.py

setup: $(SETUP) ## Install what is missing: system packages (as root), .venv, torch, tools
$(SETUP): pyproject.toml tools/setup_system.sh tools/setup_python.sh
	@tools/setup_system.sh "$(PYTHON)"
	@tools/setup_python.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"
	@touch $@

build: $(SETUP) ## Build the C++ libraries and tests (preset dev)
	cmake --preset dev
	cmake --build --preset dev

install: $(INSTALL) ## Install the package into .venv
$(INSTALL): $(SETUP) $(SOURCES)
	CMAKE_ARGS="-DHORA_CUDA=$(HORA_CUDA) $${CMAKE_ARGS:-}" $(BIN)/python -m pip install --quiet \
	  --no-build-isolation --no-deps --force-reinstall .
	@touch $@

test: check lint $(INSTALL) ## Run every check and test
	cmake --preset release -DHORA_CUDA=$(HORA_CUDA)
	cmake --build --preset release --target all checkheaders
	ctest --preset release
	HORA_CUDA=$(HORA_CUDA) tools/run_python_tests.sh
	@sed 's/^/make test: not tested: /' build/release/left_out.txt

# These three install nothing, and fetch nothing where the libraries are there.
build-gpu test-gpu bench-gpu: export HORA_PYTHON := $(HORA_PYTHON)
build-gpu test-gpu bench-gpu: export VENV := $(VENV)

build-gpu: ## Build what the next two run, for the GPU that is here (needs nvcc)
	tools/gpu_build.sh

test-gpu: ## Run what needs a GPU: kernels, tests on GPU tensors, compute-sanitizer
	tools/run_gpu_tests.sh

bench-gpu: ## Measure on a GPU: packing, launching, a training step, host staging
	tools/run_gpu_benchmarks.sh

check: $(SETUP) ## Check layers, sizes and names
	$(BIN)/python tools/check_layers.py
	$(BIN)/python tools/check_tidy.py

lint: $(SETUP) ## Check style and types: ruff, clang-format, codespell, mypy
	tools/lint.sh

format: $(SETUP) ## Rewrite sources in the project's style
	tools/lint.sh --fix

asan: $(SETUP) ## Run the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	cmake --preset asan
	cmake --build --preset asan
	ctest --preset asan

# Whatever reads what arrives over a network; and what goes on between host and device.
asan-ci: DEVICES := Nccl|Staged|Device|Gpu
asan-ci: $(SETUP) ## The same for the tests of hosts, of strangers and of devices only
	cmake --preset asan
	cmake --build --preset asan --target \
	  $(addsuffix _test,wire net control cuda collectives engine)
	ctest --preset asan \
	  -R '^(wire|net|control|cuda)/|^collectives/.*(Tcp|$(DEVICES))|^engine/.*(Hosts|Strangers|$(DEVICES))'

tsan: $(SETUP) ## Run the C++ tests under ThreadSanitizer
	cmake --preset tsan
	cmake --build --preset tsan
	$(FIXED_LAYOUT) ctest --preset tsan

fuzz: $(SETUP) ## Fuzz every decoder, SECONDS=60 each (installs clang as root; skipped without)
	@HORA_SETUP_FUZZ=1 tools/setup_system.sh "$(PYTHON)"
	tools/run_fuzzers.sh $(SECONDS)

tidy: $(SETUP) ## Run clang-tidy on every source
	$(BIN)/python -m pip install --quiet clang-tidy==18.1.8
	cmake --preset tidy
	cmake --build --preset tidy

bench: $(INSTALL) ## Compare with MPI, oneCCL, gloo and the limit of memory (20 minutes)
	$(BIN)/python -m pip install --quiet matplotlib
	cmake --preset release
	cmake --build --preset release --target hora_worker memory_worker negotiator_bench
	tools/run_benchmarks.sh

docs: $(SETUP) ## Build the documentation site into site/
	$(BIN)/python -m pip install --quiet mkdocs-material 'mkdocstrings[python]'
	$(BIN)/mkdocs build --strict

clean: ## Remove what was built (not .venv)
	rm -rf build dist site $(INSTALL)
