# In a clean clone every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
#   make demo     label rendered scenes, score them, write a report
#   make test     all tests
#   make faults   the long form of tests/faults, with a table of what was inflicted and what it cost
#   make check    format, lint, types, import rule, dependencies: what CI checks besides the tests
#   make bench    benchmarks
#   make test-cluster       jobs submitted to a Ray cluster of three nodes, stopped and continued
#   make check-schedulers   infra's scheduler examples, each loaded by its scheduler (downloads them: 1.2 GB of disk)
# PYTHON names the interpreter that makes the environment (3.11 or newer), VENV where it goes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-unit test-rest test-cluster faults format bench clean
.PHONY: check check-lint check-format check-types check-imports check-dependencies check-schedulers

VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The first interpreter that runs and is new enough; `python3` wins, as it is what people mean.
PYTHON ?= $(shell for name in python3 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$name" && break; done)
TEST_JOBS ?= 2

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making the environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# torch comes first and alone: where pip can find the CPU build of this version (a --find-links or index in pip's
# configuration), it prefers it to the much larger CUDA build, and nothing later replaces it.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@echo "Installing torch $(TORCH) (the largest download; minutes on a slow line)"
	@$(PIP) torch==$(TORCH)
	@touch $@

$(VENV)/.package: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing sam3lt-ray and what it needs"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tools: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing sam3lt-ray, what it needs, and the development tools"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.package

demo: $(VENV)/.package
	@$(BIN)/sam3lt demo $(DEMO_OPTIONS)

test: test-unit test-rest

# Unit tests share nothing, so they run side by side, each process with one thread, file by file: what a file's tests
# share is made once. The others start servers and Ray and need both cores each.
test-unit: $(VENV)/.tools
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit --numprocesses $(TEST_JOBS) --dist loadfile $(PYTEST_OPTIONS)

test-rest: $(VENV)/.tools
	@$(BIN)/python -m pytest tests --ignore tests/unit $(PYTEST_OPTIONS)

test-cluster: $(VENV)/.tools
	@SAM3LT_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/integration/test_cluster_job.py $(PYTEST_OPTIONS)

# An hour: many trials of each fault. FAULTS_JSON=FILE collects the table over several calls, such as one for each
# file or, with PYTEST_OPTIONS="-k part0", for a part of the long tests.
faults: $(VENV)/.tools
	@$(BIN)/python -m pytest tests/faults --faults-long $(if $(FAULTS_JSON),--faults-json $(FAULTS_JSON)) $(PYTEST_OPTIONS)

# `make --keep-going check` shows what all of them find.
check: check-lint check-format check-types check-imports check-dependencies

check-lint: $(VENV)/.tools
	@echo "ruff check"; $(BIN)/ruff check .

check-format: $(VENV)/.tools
	@echo "ruff format --check"; $(BIN)/ruff format --check .

check-types: $(VENV)/.tools
	@echo "mypy"; $(BIN)/mypy

check-imports: $(VENV)/.tools
	@echo "lint-imports"; $(BIN)/lint-imports

check-dependencies: $(VENV)/.tools
	@echo "deptry"; $(BIN)/deptry .

format: $(VENV)/.tools
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Each scheduler has an environment of its own: none of them goes with another one, or with ours.
SCHEDULERS := airflow argo dagster skypilot
check-schedulers: $(SCHEDULERS:%=check-scheduler-%)

check-scheduler-%: $(VENV)-schedulers/%/.ready
	@$(VENV)-schedulers/$*/bin/python infra/check_schedulers.py $*

.PRECIOUS: $(VENV)-schedulers/%/.ready
$(VENV)-schedulers/%/.ready: infra/%/requirements.txt
	@echo "Installing $* for infra/$*"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip --disable-pip-version-check install --quiet --requirement $<
	@touch $@

bench: $(VENV)/.tools
	@echo "== sam3lt bench --quick"; $(BIN)/sam3lt bench --quick
	@shopt -s nullglob; found=(tests/benchmarks/bench_*.py); \
	if (( $${#found[@]} == 0 )); then echo "There are no benchmarks in tests/benchmarks."; exit 0; fi; \
	for file in "$${found[@]}"; do echo "== $$file"; $(BIN)/python "$$file"; done

clean:
	rm -rf $(VENV) $(VENV)-schedulers .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build *.egg-info
