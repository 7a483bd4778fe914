# Raymill's verbs. `make quickstart` and `make test` do all their own set-up on a machine with Python 3.11,
# make and a C++ compiler. pip's own configuration and PIP_* variables decide which index is used.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
SOURCE_ONLY := deepspeed fasttext
NOT_COMPILED := /(tests?|torch/testing|ray/rllib|moto|mypyc?|pip|setuptools|transformers/models/(?!auto|llama|mistral|qwen3|gpt2|bloom|encoder_decoder)[^/]+)/

# As many threads as a process needs; spinning threads of one starve the others on the same cores.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup lock quickstart check test soak lint docs bench clean help

help:
	@echo "make setup       create $(VENV) and install everything"
	@echo "make lock        write the locked versions anew, from pyproject.toml"
	@echo "make quickstart  run job_specs/quickstart.yaml through every stage"
	@echo "make check       formatting, lint rules, types, unit tests (minutes)"
	@echo "make test        run all tests but the soak tests"
	@echo "make soak        run the tests that kill again and again, and lose machines (minutes each)"
	@echo "make lint        formatting, lint rules, types"
	@echo "make docs        write docs/stages and job_specs/schema.json anew, from the settings"
	@echo "make bench       run the benchmarks"
	@echo "make clean       remove $(VENV) and caches; store/ (artifacts, runs, reports) is yours and stays"

setup: $(STAMP)

# The lock names every package, so pip has nothing to resolve: it fetches, checks the hash and unpacks.
# - DeepSpeed and fastText are published as source only. The locked setuptools and pybind11 build them, without debug
#   information (half of the compiler's time) and without DeepSpeed's C++ operators; pip keeps the wheels in its cache.
# - torch has no hash, since CPU and CUDA builds share the version number and the index decides which one it is. Its
#   dependencies are resolved: a CPU build finds all of them there, a CUDA build brings those that its metadata names.
# - Modules are compiled to bytecode on all cores, and only those that Raymill may import: not packages' own tests nor
#   hundreds of model architectures. The others Python compiles when they are first imported, as always.
#   (compileall ends with an error where a package ships templates or code for another Python.)
# - Numba's kernels are compiled into the user's cache at the end, so that no stage waits for them.
$(STAMP): pyproject.toml constraints.txt requirements.lock requirements-source.lock
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --no-deps --require-hashes --requirement requirements.lock
	DS_BUILD_OPS=0 CXXFLAGS=-g0 $(INSTALL) --no-deps --no-build-isolation --require-hashes \
	    --requirement requirements-source.lock
	$(INSTALL) --constraint constraints.txt torch
	$(INSTALL) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	$(BIN)/python -m compileall -qq -j 0 -x '$(NOT_COMPILED)' $(VENV)/lib/python*/site-packages || true
	$(BIN)/python -m dataprep.compile_kernels
	@touch $(STAMP)

# Writes constraints.txt (every package and version, for users' own environments and clusters) and the two locks (the
# same with hashes). Versions stay where pyproject.toml still allows them; `make lock UPGRADE=--upgrade` takes the
# newest, `UPGRADE="--upgrade-package ray"` that of one package. uv reads UV_* variables, not pip's configuration.
lock:
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && set -e && \
	$(PYTHON) -m venv "$$tools" && "$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9 && \
	compile() { "$$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	    --no-header --no-annotate "$$@"; } && \
	compile --extra dev $(UPGRADE) pyproject.toml --output-file constraints.txt && \
	compile --no-deps --generate-hashes $(addprefix --no-emit-package ,torch $(SOURCE_ONLY)) constraints.txt \
	    --output-file requirements.lock && \
	printf '%s\n' $(SOURCE_ONLY) | compile --no-deps --generate-hashes --constraint constraints.txt - \
	    --output-file requirements-source.lock

quickstart: $(STAMP)
	$(BIN)/raymill run job_specs/quickstart.yaml

check: lint
	$(BIN)/python -m pytest tests/unit -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m cluster.reference_pages

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
