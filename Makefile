# make demo: the command-line demo on real data.   make test: everything that must hold.
# Both make their own virtual environment first and need only python3 (>= 3.11) and pip's index.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip compiles in one process, and the packages' own tests too; COMPILE uses every core for the rest.
# A file that cannot be compiled (a template, say) is none that is imported.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-compile -c constraints.txt
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
WORKERS ?= 2

# Real data, where a copy stands beside the repository; FAIRSVD_DATA in the environment wins.
ifndef FAIRSVD_DATA
ifneq ($(wildcard ../shared/data),)
export FAIRSVD_DATA := $(abspath ../shared/data)
endif
endif

# Every process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# More torch threads than cores make small networks slower, most of all beside other workers.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-fast test-lowest test-newest test-simulated-cuda test-simulated-cuda-all \
	test-torchvision fuzz lint types unit doctest torture docs examples bench clean beside-unit

help:
	@echo "make demo | test | test-fast | fuzz | torture | lint | docs | examples | bench | clean"
	@echo "make test-simulated-cuda | test-torchvision | test-lowest | test-newest"

# A stamp inside the environment says what it holds; a changed requirement makes it stale.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.for-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	$(COMPILE)
	@touch $@

$(VENV)/.for-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[test,scale]"
	$(COMPILE)
	@touch $(VENV)/.for-demo $@

$(VENV)/.for-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[docs]"
	$(COMPILE)
	@touch $(VENV)/.for-demo $@

$(VENV)/.for-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[bench]"
	$(COMPILE)
	@touch $(VENV)/.for-demo $@

demo: $(VENV)/.for-demo
	$(BIN)/fairsvd demo

# The tests in one lane, all that needs one process in another: no core waits.
test: $(VENV)/.for-test
	$(MAKE) --no-print-directory -j2 unit beside-unit

beside-unit: $(VENV)/.for-test
	$(MAKE) --no-print-directory lint types
	$(MAKE) --no-print-directory WORKERS=0 doctest test-simulated-cuda

# What one runs while working: under two minutes on two cores.
test-fast: $(VENV)/.for-test
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

# torchvision comes with a torch of its own, built for CUDA: some 5.5 GB in another environment.
VISION := .venv-torchvision

$(VISION)/.for-test: pyproject.toml constraints.txt
	test -x $(VISION)/bin/python || $(PYTHON) -m venv $(VISION)
	grep -v '^torch==' constraints.txt > $(VISION)/constraints.txt
	$(VISION)/bin/python -m pip --disable-pip-version-check -qq install \
		-c $(VISION)/constraints.txt -e . hypothesis pytest torch==2.14.1 torchvision==0.29.1
	@touch $@

test-torchvision: $(VISION)/.for-test
	$(VISION)/bin/python -m pytest -q -rs tests/test_torchvision.py

# Thousands of odd calls, in about an hour on two cores; `make test` makes 150 of them.
FUZZ_CALLS ?= 10000

fuzz: $(VENV)/.for-test
	FAIRSVD_FUZZ_CALLS=$(FUZZ_CALLS) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal \
		tests/fuzz

lint: $(VENV)/.for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.for-test
	$(BIN)/mypy

unit: $(VENV)/.for-test
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

# What is for a CUDA device, in a process of its own: on a real one where torch finds it, else on a
# simulated one (tests/simulated_cuda), which is made for the torch of constraints.txt; with another
# torch it says so and skips. The second target leaves nothing out and takes some minutes.
ON_CUDA := FAIRSVD_SIMULATED_CUDA=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal \
	tests/test_simulated_cuda.py tests/test_float16.py $(wildcard tests/test_cuda*.py)

test-simulated-cuda: $(VENV)/.for-test
	$(ON_CUDA) -m "not slow"

test-simulated-cuda-all: $(VENV)/.for-test
	$(ON_CUDA)

# The package's own warnings are advice about data, which the examples need not be perfect in; all
# others stay errors. The README's code runs in tests/test_readme.py.
doctest: $(VENV)/.for-test
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal \
		--doctest-modules --doctest-glob='*.rst' --ignore=docs/auto_examples --ignore=docs/generated \
		-W ignore::fairsvd.exceptions.FairsvdWarning docs src/fairsvd

# Fits that are killed, and fits that are interrupted, at many moments; some minutes.
torture: $(VENV)/.for-test
	FAIRSVD_TORTURE=40 $(BIN)/python -m pytest -q tests/test_cut_off.py

docs: $(VENV)/.for-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# Every example from beginning to end, as a reader runs it; each takes less than a minute.
examples: $(VENV)/.for-test
	@set -e; for script in examples/plot_*.py; do echo "== $$script"; \
		MPLBACKEND=agg $(BIN)/python -W ignore $$script; done

# In an environment of its own, with the lowest versions that pyproject.toml allows.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip --disable-pip-version-check -qq install \
		-c constraints-lowest.txt -e ".[test]"
	.venv-lowest/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" \
		-W default

# In the environment of torchvision, with the newest versions that pip finds, torch's excepted: what a
# later release of a dependency breaks or deprecates.
test-newest: $(VISION)/.for-test
	$(VISION)/bin/python -m pip --disable-pip-version-check -qq install --upgrade \
		--upgrade-strategy eager -e ".[test]" torch==2.14.1 torchvision==0.29.1
	$(VISION)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" -W default

bench: $(VENV)/.for-bench
	@set -e; for script in benchmarks/*/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf docs/_build docs/auto_examples docs/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
