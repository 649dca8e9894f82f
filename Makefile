# Everything a developer runs. Python 3.11+ and make are all a fresh machine needs.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
RUNTIME := .venv/.runtime
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo unit integration test coverage lint check bench soak fuzz dashboards schemas components pictures dist clean

help:
	@echo "make demo        simulated calls and the exporter in one process; the last line says what to open"
	@echo "make unit        the fast part of the tests"
	@echo "make integration tests of one part on real sockets, files and processes"
	@echo "make test        all tests"
	@echo "make coverage    what unit and integration tests reach; fails below the gate in pyproject.toml"
	@echo "make check       lint, types, rules and tests"
	@echo "make bench       benchmarks, written to benchmarks/results/"
	@echo "make soak        long crash and fault test; prints its seeds"
	@echo "make fuzz        fuzz what strangers can say, 60 s for each target (SECONDS=600: longer)"
	@echo "make dashboards  regenerate rules and dashboards from dashboards/slo.yml"
	@echo "make schemas     fetch Grafana's dashboard schema anew for the tests (needs npm)"
	@echo "make components  Grafana's own components for make pictures (needs npm, 500 MB outside the tree)"
	@echo "make dist        sdist and wheel, written to dist/"
	@echo "make pictures    draw docs/*.png from a real Prometheus that scrapes a scenario"

# What the program needs to run, and nothing else: seconds instead of half a minute. It runs from the source tree.
$(RUNTIME): pyproject.toml constraints.txt
	@echo "Making .venv and installing what the exporter needs (once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >.venv/needed.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --no-compile \
	  --constraint $(CONSTRAINTS) --requirement .venv/needed.txt 2>&1 | grep --line-buffered -E '^(Collecting|Installing|Success|ERROR)' || true
	@$(BIN)/python -c 'import trio, httpx, cyclopts'
	@touch $@

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $(RUNTIME) $@

# On loopback only, and quiet, so that the address stays the last line.
demo: $(RUNTIME)
	@$(BIN)/python -m exporter demo --web.listen-address=127.0.0.1:10058 --log.level=warn

unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit

integration: $(STAMP)
	$(BIN)/python -m pytest tests/integration

test: $(STAMP)
	$(BIN)/python -m pytest

# Processes that tests start are not measured: following them costs more than it tells.
coverage: $(STAMP)
	$(BIN)/python -m coverage run -m pytest tests/unit tests/integration
	$(BIN)/python -m coverage report

# promtool comes with Prometheus; where it is missing its check is left out (CI has it). The tests of the rules, half a
# minute, are run by `make test`.
lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@if command -v promtool >/dev/null; then \
	  promtool check rules dashboards/prometheus/recording.yml dashboards/prometheus/alerts.yml; \
	else echo "promtool is not installed: rules not checked"; fi

check: lint test

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[bench]'
	$(BIN)/python -m benchmarks

MINUTES ?= 30
soak: $(STAMP)
	$(BIN)/python -m tests.soak
	@if command -v prometheus >/dev/null; then \
	  $(BIN)/python -m tests.soak --seeds 1 --mutations --prometheus "$$(command -v prometheus)"; \
	else echo "prometheus is not installed: what it adds up was not compared"; fi
	$(BIN)/python -m tests.soak.everything --minutes $(MINUTES)

SECONDS ?= 60
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

dashboards: $(STAMP)
	$(BIN)/python -m dashboards

schemas:
	tests/data/grafana-schema/regenerate

# Outside the tree: half a gigabyte.
COMPONENTS ?= $(HOME)/.cache/phonic-exporter/grafana-components
components:
	mkdir -p $(COMPONENTS)
	cp dashboards/pictures/components/* $(COMPONENTS)
	cd $(COMPONENTS) && npm install --silent --no-audit --no-fund --ignore-scripts && node build.mjs

pictures: $(STAMP)
	PHONIC_PICTURES=docs $(BIN)/python -m pytest tests/e2e/test_dashboards_live.py

# The sdist, and the wheel made of it.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
