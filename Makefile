# Everything runs in .venv, made on first use.
#   make demo    simulate, prepare, train, evaluate; the report lands in demo/
#   make repro   the papers' claims beside ours, under half an hour; the page lands in repro/index.html
#   make test    ruff, mypy, pytest with doctests on up to four cores
# PYTHON picks the interpreter (3.10 or newer); PIP_FLAGS adds options to pip, for example where torch comes from:
#   make test PYTHON=python3.12 PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo repro test lint clean

demo: $(STAMP)
	$(BIN)/convexrecon demo --out demo

PAPERS := ismrm2021_layerwise iclr2021_convex_regularization gleam2022 mel2021 blockwise2022 solvers

# A stopped run continues; REPRO_FLAGS=--tiny only checks that everything runs.
REPRO ?= repro
REPRO_FLAGS ?=
repro: $(STAMP)
	for paper in $(PAPERS); do \
	  $(BIN)/python papers_repro/$$paper.py --out $(REPRO)/$$paper $(REPRO_FLAGS) || exit 1; done
	$(BIN)/python papers_repro/page.py $(PAPERS:%=$(REPRO)/%) --out $(REPRO)/index.html

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

# Leaves .venv, demo/ and repro/, which are expensive to make.
clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
