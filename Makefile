# Everything runs in .venv, made on first use.
#   make demo    simulate, prepare, train, evaluate; the report lands in demo/
#   make test    ruff, mypy, pytest with doctests on up to four cores
# PYTHON picks the interpreter (3.10 or newer); PIP_FLAGS adds options to pip, for example where torch comes from:
#   make test PYTHON=python3.12 PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test lint clean

demo: $(STAMP)
	$(BIN)/convexrecon demo --out demo

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(STAMP)

# The stamp is newer than what it was made from, so the installation is repeated only when that changes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "convexrecon needs Python 3.10 or newer, found: $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

# Leaves .venv and demo/, which are expensive to make.
clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
