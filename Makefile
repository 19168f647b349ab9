# Every target makes the environment it needs in .venv: the machine needs Python 3.11 or newer, pip and make.

PYTHON  ?= python3
WORKERS ?= 2
OUT     ?= runs/demo
VENV    := .venv
BIN     := $(VENV)/bin

# Our models are small: several threads for each of several processes would only wait for one another.
export OMP_NUM_THREADS ?= 1

.NOTPARALLEL:
.PHONY: help demo test lint unit package clean

help:  ## show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp  ## train a policy and write its report into runs/demo, or into OUT=…
	$(BIN)/textgym demo --out $(OUT) --overwrite

test: lint unit package  ## everything that must hold: lint, unit and package

lint: $(VENV)/dev.stamp  ## style, types and the floors of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/dev.stamp  ## the tests, on WORKERS=2 processes
	$(BIN)/pytest -n $(WORKERS)

package: $(VENV)/dev.stamp  ## build sdist and wheel, install the wheel elsewhere, run it there
	PYTHON=$(BIN)/python scripts/check_package.sh

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: pyproject.toml
	$(call install,.)
	@touch $@

# The developer's installation holds the user's.
$(VENV)/dev.stamp: pyproject.toml
	$(call install,".[dev]")
	@touch $(VENV)/run.stamp $@

define install
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "textgym needs Python 3.11 or newer; choose one with make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e $(1)
endef
