# Everything a newcomer needs: make run · make test. CI calls the same targets.
VENV ?= .venv
ORACLES ?= .oracles
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PY := $(VENV)/bin/python
CHROMIUM ?= $(firstword $(wildcard /usr/bin/chromium /usr/bin/chromium-browser /usr/bin/google-chrome))

.PHONY: help install run test oracles e2e check format demo bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(VENV)/.installed  ## set up $(VENV) with what the studio needs to run

run: install  ## start the studio on http://127.0.0.1:7860 (PORT, HOST and STUDIO_HOME are honoured)
	@exec $(PY) -m app

test: $(VENV)/.installed-dev  ## run the tests (CPU, no network)
	@$(PY) -m pytest -n 2 --dist worksteal

oracles: $(VENV)/.installed-dev $(ORACLES)/.installed  ## compare merges and their files with mergekit's own
	@PYTHONPATH=$(ORACLES) $(PY) -c 'import mergekit' && \
		PYTHONPATH=$(ORACLES) $(PY) -m pytest tests/test_merging_oracles.py tests/test_mergekit_oracles.py

e2e: $(VENV)/.installed-dev  ## run the browser tests in headless Chromium
	@$(if $(CHROMIUM),,sh -c 'echo "Installing Chromium …" && apt-get update -qq && apt-get install -y -qq chromium' &&) \
		$(PY) -m pytest tests/e2e

check: $(VENV)/.installed-dev  ## formatting, lint and types
	@$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy

format: $(VENV)/.installed-dev  ## format the code
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

demo: install  ## train the demo checkpoints again from their seed, then measure them
	@$(PY) -m backend demo build --seed 0 && $(PY) -m backend demo verify

bench: $(VENV)/.installed-dev  ## the sweep against the loop everybody writes
	@$(PY) benchmarks/sweep.py

clean:  ## remove the virtual environment and caches
	@rm -rf $(VENV) $(ORACLES) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "DualSelect Studio needs Python 3.11 or newer; none was found. Install it and try again."; exit 1; }
	@echo "Making a virtual environment in $(VENV) with $(PYTHON) …"
	@$(PYTHON) -m venv $(VENV) || { echo "python -m venv failed. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	@echo "Installing what the studio needs (once; a few minutes) …"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing the developers' tools (once) …"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# A folder beside the virtual environment: nothing else may see mergekit.
$(ORACLES)/.installed: requirements-oracles.txt | $(VENV)/.installed
	@rm -rf $(ORACLES)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $(ORACLES) -r requirements-oracles.txt
	@touch $@
