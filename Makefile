# The two commands: `make run` runs the main job on loopback, `make test` checks everything. Neither needs root or Docker.
# What they need is installed into .venv and .tools, from the pinned requirements.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROW ?= all
COUNT ?= 10000000

.DEFAULT_GOAL := help
.PHONY: help run test check unit prove mutants bench fuzz protos requirements format clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements/run.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "extauthz needs Python 3.11 or later: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

.tools/h2spec: $(VENV)/.dev
	GOBIN=$(CURDIR)/.tools GOPATH=$(CURDIR)/.tools/go GOFLAGS='-buildvcs=false -modcacherw' GOTOOLCHAIN=local \
		$(BIN)/go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
	@touch $@

run: $(VENV)/.run ## Redis, two providers, the sidecar and Envoy on loopback; one request; Ctrl-C stops all
	$(BIN)/python -m demo

test: check unit ## Everything a change must pass

check: $(VENV)/.dev ## Lint, types, the rooms' imports, protos without difference
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/protos.py --check

unit: $(VENV)/.dev .tools/h2spec ## The tests alone
	PATH="$(CURDIR)/$(BIN):$(CURDIR)/.tools:$$PATH" $(BIN)/python -m pytest -n 2 --dist loadgroup tests

prove: $(VENV)/.dev .tools/h2spec ## A promise of docs/reliability.md at its full number: make prove ROW=17
	PATH="$(CURDIR)/$(BIN):$(CURDIR)/.tools:$$PATH" EXTAUTHZ_PROVE=$(ROW) $(BIN)/python -m pytest -p no:randomly -s --timeout 1800 -m "prove" --prove-row $(ROW) tests

mutants: $(VENV)/.dev ## Break one line of a promise at a time; each test must notice: make mutants ROW=33
	PATH="$(CURDIR)/$(BIN):$(CURDIR)/.tools:$$PATH" $(BIN)/python scripts/mutants.py "$(ROW)"

bench: $(VENV)/.dev ## CPU per Check on both transports, as ratios; asserts nothing
	$(BIN)/python -m bench

fuzz: $(VENV)/.dev ## Mutated connections against the HTTP/2 core: make fuzz COUNT=100000
	$(BIN)/python -m fuzz.h2_connection $(COUNT)

protos: $(VENV)/.dev ## Compile protos/ to the descriptor set
	$(BIN)/python scripts/protos.py

format: $(VENV)/.dev ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: ## Pin the requirements anew, with hashes and without index lines
	$(PYTHON) -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv
	.tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra embedded --extra traces requirements/build.in pyproject.toml -o requirements/run.txt
	.tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra embedded --extra traces --extra dev requirements/build.in pyproject.toml -o requirements/dev.txt

clean: ## Remove what the targets installed
	rm -rf $(VENV) .tools .run .mypy_cache .ruff_cache .pytest_cache
