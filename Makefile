# unmemorize. `make help` lists the targets; PYTHON=python3.12 picks another interpreter,
# NO_VENV=1 uses the current environment as it is.

PYTHON ?= python3
RUN ?= runs/demo
BENCH ?=

ifdef NO_VENV
BIN :=
PY := $(PYTHON)
READY :=
else
BIN := .venv/bin/
PY := .venv/bin/python
READY := .venv/.ready
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint type unit coverage clean
.PHONY: bench bench-peers bench-dedup bench-placeholders bench-cost bench-gpu bench-audit bench-erase

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## install everything into .venv

.venv/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY)  ## plant, train, deduplicate, audit, erase, verify, report: about ten minutes
	$(PY) -m pipeline demo --out $(RUN)

test: lint type unit  ## lint, types and tests

lint: $(READY)  ## ruff
	$(BIN)ruff check .
	$(BIN)ruff format --check .

type: $(READY)  ## mypy, strict
	$(BIN)mypy

unit: $(READY)  ## pytest; the slow tests too
	$(PY) -m pytest

coverage: $(READY)  ## pytest with branch coverage
	$(PY) -m pytest --cov --cov-report=term-missing:skip-covered

bench: $(READY)  ## rates of each stage beside its limit, in one run
	$(PY) -m tests.bench

bench-peers: $(READY)  ## environments in .bench for the tools that bench-dedup stands beside
	$(PY) -m tests.bench.peers

bench-dedup: bench-peers  ## quality, memory and speed beside other tools; BENCH="--only join"
	$(PY) -m tests.bench.dedup $(BENCH)

bench-cost: $(READY)  ## measured rates, and what ten million to five billion pictures would cost
	$(PY) -m tests.bench.cost

bench-gpu: $(READY)  ## join and embedding on a GPU; BENCH="--rows 1000000" for less
	$(PY) -m tests.bench.gpu $(BENCH)

bench-audit: $(READY)  ## is the verdict right: models whose memorization is known; BENCH="--jobs 2"
	$(PY) -m tests.bench.audit $(BENCH)

bench-erase: $(READY)  ## what each eraser takes away, and at what cost; BENCH="--targets 1 4 16"
	$(PY) -m tests.bench.erase $(BENCH)

bench-placeholders: $(READY)  ## a set of which half is one placeholder: time, memory, exponent
	$(PY) -m tests.bench.placeholders

clean:  ## remove the environment and caches, never a run
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .hypothesis .coverage
