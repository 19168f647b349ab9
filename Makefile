# Every target makes the environment it needs: the machine needs Python 3.11 or newer, pip and make.

PYTHON  ?= python3
WORKERS ?= 2
OUT     ?= runs/demo
TESTED  := requirements/tested.txt
VENV    := .venv
BIN     := $(VENV)/bin

# Our models are small: several threads for each of several processes would only wait for one another.
export OMP_NUM_THREADS ?= 1

.NOTPARALLEL:
.PHONY: help demo test lint unit site test-long mutants package test-latest test-lowest tested clean

help:  ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp  ## train a policy and write its report into runs/demo, or into OUT=…
	$(BIN)/textgym demo --out $(OUT) --overwrite

test: lint unit site package  ## everything that must hold: lint, unit, site and package

lint: $(VENV)/dev.stamp  ## style, types and the floors of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/dev.stamp  ## the tests, on WORKERS=2 processes
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

# Links and anchors are checked. mkdocs-material would print a notice on its successor; that is not a warning of ours.
site: $(VENV)/dev.stamp  ## build the documentation into site/, with every warning as an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-long: $(VENV)/dev.stamp  ## the whole versions of tests that are run in short otherwise: faults, fuzzing (hours)
	$(BIN)/pytest -n $(WORKERS) -m long

mutants: $(VENV)/dev.stamp  ## put small errors into the code, one at a time, and see whether a test notices each
	$(BIN)/python -m scripts.mutants --workers $(WORKERS)

package: $(VENV)/dev.stamp  ## build sdist and wheel, install the wheel elsewhere, run it there
	PYTHON=$(BIN)/python scripts/check_package.sh

# Other libraries' new warnings are shown there, and fail nothing: they must not decide whether an install works.
test-latest:  ## the tests at the newest versions that pyproject.toml allows, in .venv-latest
	$(call install,.venv-latest,".[dev]",--upgrade --upgrade-strategy eager)
	.venv-latest/bin/pytest -n $(WORKERS) --dist worksteal -W default

test-lowest:  ## the tests at the lowest versions that pyproject.toml allows, in .venv-lowest
	test -x .venv-lowest/bin/uv || { "$(PYTHON)" -m venv .venv-lowest && .venv-lowest/bin/python -m pip install uv; }
	.venv-lowest/bin/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct -e ".[dev]"
	.venv-lowest/bin/pytest -n $(WORKERS) --dist worksteal -W default

tested:  ## test the newest versions in a new environment, then write them into requirements/tested.txt
	rm -rf .venv-latest
	$(MAKE) test-latest
	.venv-latest/bin/python -m pip freeze --exclude-editable > .venv-latest/frozen.txt
	sed 's/+[^ ]*$$//' .venv-latest/frozen.txt > $(TESTED)

clean:  ## remove the environments and everything that was built
	rm -rf .venv .venv-latest .venv-lowest build dist site *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: pyproject.toml $(TESTED)
	$(call install,$(VENV),.,-c $(TESTED))
	@touch $@

# The developer's installation holds the user's.
$(VENV)/dev.stamp: pyproject.toml $(TESTED)
	$(call install,$(VENV),".[dev]",-c $(TESTED))
	@touch $(VENV)/run.stamp $@

# $(1): the environment; $(2): what is installed; $(3): further arguments of pip
define install
	@"$(PYTHON)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "textgym needs Python 3.11 or newer; choose one with make PYTHON=...")'
	@test -x $(1)/bin/python || "$(PYTHON)" -m venv $(1)
	$(1)/bin/python -m pip install -e $(2) $(3)
endef
