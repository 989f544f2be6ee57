# Everything a developer or a newcomer runs. Each target makes the virtual environment first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export OMP_NUM_THREADS ?= 2

.PHONY: venv demo test test-slow lint check format bench docs wheel lowest clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[dev]'
	touch $(STAMP)

# One thread: the minis are small, and two OpenMP threads on a busy machine wait for each other.
demo: venv
	OMP_NUM_THREADS=1 $(BIN)/python scripts/demo.py

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-slow: venv
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	$(PIP) -e '.[bench]'
	$(BIN)/python -m benchmarks

# The pages in docs/ and the reference as a site in site/; a link that leads nowhere is an error.
docs: venv
	$(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: venv
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

# The oldest versions that pyproject.toml allows, in an environment of their own; old releases warn of themselves.
LOWEST := .venv-lowest
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) scripts/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/lowest.txt -e '.[data,export]' pytest
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -W default -m "not slow and not gpu" $(SMOKE)

SMOKE := tests/bundle tests/cli/test_bad_input.py tests/contracts/test_own_ways.py tests/data/test_hub.py tests/deploy \
	tests/tracing/test_exact.py tests/verbs/test_main_path.py

clean:
	rm -rf $(VENV) $(LOWEST) build dist site src/*.egg-info
