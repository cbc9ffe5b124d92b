# Each target sets itself up; a second run reinstalls nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SET_UP := $(VENV)/.set-up
# PyPI's torch for Linux brings CUDA; on a machine without a GPU: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
RESULTS ?= kernels/results
# Processes that share the tests; most of them start one or two more.
JOBS ?= 2
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo test test-all real-data check format bench gpu clean

help:
	@echo "make setup     virtual environment in .venv, with everything at pinned versions"
	@echo "make demo      LoRA of the embedded model on two CPU cores, in a new run folder"
	@echo "make test      the tests"
	@echo "make real-data LAUNCHER_DATA=folder   what the recipes of texts learn from real data, three seeds each; takes hours"
	@echo "make check     ruff, formatter, types of the pure layers, layer test"
	@echo "make bench     tokens/s and memory beside a bare loop, Trainer and TRL"
	@echo "make gpu       on a machine with a GPU: kernel tests, kernel speed and training steps, to RESULTS=folder; installs nothing"

setup: $(SET_UP)

$(SET_UP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(SET_UP)
	$(BIN)/accelerate launch -m launcher recipes/gpt_lora.yaml

test: $(SET_UP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

test-all: $(SET_UP)
	$(BIN)/python -m pytest

real-data: $(SET_UP)
	LAUNCHER_RESULTS=$(CURDIR)/tests/real_data/results.json $(BIN)/python -m pytest -m slow tests/real_data

check: $(SET_UP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

format: $(SET_UP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(SET_UP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python tests/bench/train_bench.py

# The machine's own Python, as it is: no virtual environment.
gpu:
	$(PYTHON) tests/gpu/run.py $(RESULTS)

clean:
	rm -rf $(VENV) build *.egg-info
