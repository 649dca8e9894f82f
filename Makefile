# Everything a developer runs. Python 3.11+ and make are all a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo unit test lint check bench soak dashboards schemas components pictures clean

help:
	@echo "make demo        simulated calls and the exporter in one process; the log says what to open"
	@echo "make unit        the fast part of the tests"
	@echo "make test        all tests"
	@echo "make check       lint, types, rules and tests"
	@echo "make bench       benchmarks, written to benchmarks/results/"
	@echo "make soak        long crash and fault test; prints its seeds"
	@echo "make dashboards  regenerate rules and dashboards from dashboards/slo.yml"
	@echo "make schemas     fetch Grafana's dashboard schema anew for the tests (needs npm)"
	@echo "make components  Grafana's own components for make pictures (needs npm, 500 MB outside the tree)"
	@echo "make pictures    draw docs/*.png from a real Prometheus that scrapes a scenario"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/phonic-exporter demo

unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit

test: $(STAMP)
	$(BIN)/python -m pytest

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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

soak: $(STAMP)
	$(BIN)/python -m tests.soak

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
	PHONIC_PICTURES=docs $(BIN)/python -m pytest tests/real/test_dashboards_live.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
