# Everything from an empty machine with Python >= 3.10: `make demo` to see it, `make test` to trust it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait more than they work: a file each, beside each other. ARGS='-n 0' runs one after the other.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-deploy bench lint types proto dashboards docs components clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Rankscope needs Python >= 3.10: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(VENV) || { echo "no venv here: apt-get install python3-venv, or make PYTHON=… with another Python" >&2; exit 1; }

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	@echo "installing into $(VENV) (torch is large: minutes on a slow line) …"
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	@echo "installing into $(VENV) (torch is large: minutes on a slow line) …"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## the main job on this machine: agent, torchrun with two ranks, alerts (FAULT=nan|spike|…)
	@$(BIN)/rankscope demo $(if $(FAULT),--fault $(FAULT)) $(ARGS)

test: $(VENV)/.dev components  ## all tests that need no Docker (ARGS=… goes to pytest)
	$(PYTEST) -m "not long and not deploy" $(ARGS)

test-long: $(VENV)/.dev components  ## the tests that take minutes, too
	$(PYTEST) -m "not deploy" --timeout 3600 $(ARGS)

test-deploy: $(VENV)/.dev  ## build the image and start the compose stack (root, Debian's docker.io)
	$(BIN)/python -m pytest -m deploy --timeout 1800 $(ARGS)

bench: $(VENV)/.dev  ## print the benchmark tables
	@for file in tests/bench/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

lint: $(VENV)/.dev  ## style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev  ## mypy strict and pyright strict
	$(BIN)/mypy
	$(BIN)/pyright

docs: $(VENV)/.dev  ## rewrite deploy/rankscope.yaml and the tables of the README
	$(BIN)/python -m rankscope.agent.reference deploy/rankscope.yaml README.md

dashboards: $(VENV)/.dev  ## make the Grafana dashboards from grafana/boards (ARGS=--check only compares)
	$(BIN)/python grafana/generate.py $(ARGS)
	$(BIN)/python deploy/kubernetes/generate.py $(ARGS)

proto: $(VENV)/bin/python  ## regenerate the protocol's Python code
	$(BIN)/python proto/generate.py

# Debian's own packages, where there is apt and a root to call it; policy-rc.d keeps their services from starting.
PROGRAMS := prometheus promtool prometheus-alertmanager amtool gcc openssl shellcheck systemd-analyze docker-compose chromium mkfs.btrfs
PACKAGES := prometheus prometheus-alertmanager gcc libc6-dev openssl shellcheck systemd docker-compose chromium btrfs-progs

components:
	@missing=$$(for program in $(PROGRAMS); do command -v $$program >/dev/null || printf '%s ' $$program; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing Debian's packages for $$missing…"; \
	  policy=/usr/sbin/policy-rc.d; \
	  [ -e $$policy ] || { printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; trap "rm -f $$policy" EXIT; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $(PACKAGES) >/dev/null; \
	else echo "$$missing not here, and no apt or root to get them: the tests that need them will skip and say so"; fi

clean:  ## remove what was made
	rm -rf $(VENV) .generator .mypy_cache .pytest_cache .ruff_cache .hypothesis
