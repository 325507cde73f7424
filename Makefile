# Two commands set everything up on a machine that has Python 3.11 or later and make:
#   make demo    venv, install, and the explorer on shipped models and results: http://127.0.0.1:8501
#   make test    venv, install, lint, types, tests
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8501
BIN := $(VENV)/bin
export HF_HUB_OFFLINE := 1

.PHONY: help demo test lint types tests fix docs bench clean

help:
	@sed -n 's/^#  //p' Makefile

# torch first and pinned: a looser request would fetch gigabytes of CUDA libraries.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/interp explore --port $(PORT)

test: lint types tests

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/basedpyright --pythonpath $(BIN)/python

tests: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup -q

fix: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	$(BIN)/python -m docs.models && $(BIN)/python -m docs.readme && $(BIN)/python -m docs.pages

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.statistics

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache
