# The commands for developers. They need only make and Python 3.11 or newer.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
RUNTIME := .venv/.runtime
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo unit integration test image-test coverage lint check bench soak fuzz dashboards docs schemas components pictures dist clean

help:
	@echo "make demo        exporter and simulated calls in one process; the last line has the address to open"
	@echo "make unit        the fast tests: tests/unit"
	@echo "make integration the tests of one part on real sockets, files and processes: tests/integration"
	@echo "make test        all tests: tests/unit, tests/integration, tests/e2e"
	@echo "make image-test  build the image and run it (needs root and Debian's buildah, debootstrap, runc)"
	@echo "make coverage    coverage of unit and integration tests; fails below the gate in pyproject.toml"
	@echo "make check       lint, types, rules and tests"
	@echo "make bench       benchmarks, written to benchmarks/results/"
	@echo "make soak        long tests with crashes and faults; print their seeds"
	@echo "make fuzz        fuzz untrusted input, 60 s for each target (SECONDS=600: longer), and the state"
	@echo "make dashboards  regenerate rules, dashboards and their copies in deploy/ from dashboards/slo.yml"
	@echo "make docs        regenerate docs/metrics.md, configuration.md and scaling.md"
	@echo "make schemas     update the schemas of Grafana and the Prometheus operator for the tests (needs npm)"
	@echo "make components  install Grafana's components for make pictures (needs npm, 500 MB outside the tree)"
	@echo "make dist        sdist and wheel, written to dist/"
	@echo "make pictures    draw docs/*.png from a real Prometheus that scrapes a scenario"

# Installs only the runtime dependencies, which is faster; the program runs from the source tree.
$(RUNTIME): pyproject.toml constraints.txt
	@echo "Creating .venv and installing the runtime dependencies (once)"
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

# Listens on loopback only. Logs only warnings, so that the address stays the last line.
demo: $(RUNTIME)
	@$(BIN)/python -m exporter demo --web.listen-address=127.0.0.1:10058 --log.level=warn

# Two files of tests at a time, in their order: the first ones take longest, and most of them wait.
PARALLEL := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

unit: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) tests/unit

integration: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) tests/integration

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

# Part of `make test`. A missing program skips the tests, or fails them with CI=true.
image-test: $(STAMP)
	$(BIN)/python -m pytest -v tests/e2e/test_image.py

# Measures this process only, not the processes that tests start.
coverage: $(STAMP)
	$(BIN)/python -m coverage run -m pytest tests/unit tests/integration
	$(BIN)/python -m coverage report

# promtool comes with Prometheus; without it the rules are not checked (CI has it). `make test` runs the unit tests of the
# rules.
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
SHARD_MINUTES ?= 10
soak: $(STAMP)
	$(BIN)/python -m tests.soak
	@if command -v prometheus >/dev/null; then \
	  $(BIN)/python -m tests.soak --seeds 1 --mutations --prometheus "$$(command -v prometheus)" && \
	  if ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then \
	    $(BIN)/python -m tests.soak.shards --mutations --minutes $(SHARD_MINUTES); \
	  else echo "postgresql is not installed: shards were not tested"; fi; \
	else echo "prometheus is not installed: its sums were not compared"; fi
	$(BIN)/python -m tests.soak.everything --minutes $(MINUTES)

SECONDS ?= 60
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)
	$(BIN)/python -m pytest --hypothesis-profile=thorough tests/integration/test_storage_model.py

dashboards: $(STAMP)
	$(BIN)/python -m dashboards
	$(BIN)/python -m deploy

docs: $(STAMP)
	$(BIN)/python -m docs

schemas:
	tests/data/grafana-schema/regenerate
	tests/data/prometheus-operator-schema/regenerate

# Half a gigabyte, so outside the source tree.
COMPONENTS ?= $(HOME)/.cache/phonic-exporter/grafana-components
components:
	mkdir -p $(COMPONENTS)
	cp dashboards/pictures/components/* $(COMPONENTS)
	cd $(COMPONENTS) && npm install --silent --no-audit --no-fund --ignore-scripts && node build.mjs

pictures: $(STAMP)
	PHONIC_PICTURES=docs $(BIN)/python -m pytest tests/e2e/test_dashboards_live.py tests/e2e/test_pages_in_browser.py

# The sdist, and the wheel made of it.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
