# Raymill's verbs. `make quickstart` and `make test` do all their own set-up on a machine with Python 3.11,
# make and a C++ compiler. pip's own configuration and PIP_* variables decide which index is used.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# As many threads as a process needs; spinning threads of one starve the others on the same cores.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup quickstart test soak lint bench clean help

help:
	@echo "make setup       create $(VENV) and install everything"
	@echo "make quickstart  run job_specs/quickstart.yaml through every stage"
	@echo "make test        run the tests"
	@echo "make soak        run the tests that kill again and again, and lose machines (minutes each)"
	@echo "make lint        formatting, lint rules, types"
	@echo "make bench       run the benchmarks"
	@echo "make clean       remove $(VENV) and caches; store/ (artifacts, runs, reports) is yours and stays"

setup: $(STAMP)

# torch by its full version first: a bare `torch` would fetch the newest CUDA build. Numba's kernels are compiled
# into the user's cache at the end (half a minute), as part of the installation.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m dataprep.compile_kernels
	@touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/raymill run job_specs/quickstart.yaml

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
