# `make demo` and `make test` work from a bare clone: they need Python >= 3.11 and make, and build the rest in .venv.

PYTHON ?= python3
OUT ?= demo_output
# Extra words for pip when it installs torch, for example
#   make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
# for the small build that runs without a GPU.
TORCH_ARGS ?=

# The tests run in one process per processor, and at most in these; to follow a single test: PYTEST_ARGS="-n 0 FILE".
WORKERS ?= 4

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)

# Waiting OpenMP threads sleep instead of spinning: else two processes on one machine slow each other several times.
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export MONAI_EVAL_EXPR := 0

.DEFAULT_GOAL := help
.PHONY: help demo test lint schemas clean

help:
	@echo "make demo     train, score and explain on a made-up cohort; results in OUT (demo_output)"
	@echo "make test     every check: lint, types, tests, coverage floors; PYTEST_ARGS go to pytest"
	@echo "make lint     only ruff and mypy"
	@echo "make schemas  write data_schemas/ again from medmllm/documents.py"
	@echo "make clean    remove .venv, caches and what runs left behind"

# Only the folder that this Makefile names itself may be written over.
demo: $(VENV)/installed
	$(BIN)/medmllm demo --out "$(OUT)" $(if $(filter demo_output,$(OUT)),--overwrite)

test: export HF_HUB_OFFLINE := 1
test: export TRANSFORMERS_OFFLINE := 1
# One thread each, or the processes wait for each other.
test: export OMP_NUM_THREADS := 1
test: lint
	rm -f .coverage .coverage.* coverage.json
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder \
	    --cov --cov-report=term --cov-report=json:coverage.json $(PYTEST_ARGS)
	$(BIN)/python tests/coverage_floors.py coverage.json

# mypy knows nothing of setup.cfg's package_dir: show it the package the way a wheel lays it out.
lint: $(VENV)/test-installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	rm -rf build/typed && mkdir -p build/typed/medmllm
	ln -s $(abspath $(filter-out %__pycache__/,$(wildcard medmllm/*.py medmllm/*/)) pipelines data_schemas) build/typed/medmllm/
	cd build/typed && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p medmllm

schemas: $(VENV)/installed
	$(BIN)/medmllm schemas --out data_schemas

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output coverage.json .coverage .coverage.*
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find medmllm pipelines data_schemas tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "medmllm needs Python >= 3.11, and $(PYTHON) is `$(PYTHON) --version 2>&1`: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, so that its source can be chosen and nothing else comes from there.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install $(TORCH_ARGS) -c constraints.txt $(TORCH)
	$(PIP) install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/test-installed: $(VENV)/installed
	$(PIP) install --quiet -c constraints.txt -e '.[test]'
	touch $@
