"""Reads PromQL for tests: the series an expression selects, the functions around them, the labels it names."""

from collections.abc import Iterator
from typing import Any

import attrs
import promql_parser

from dashboards.rules import recording
from dashboards.slo import Slo
from exporter.counting.labels import LABEL_CHOICES, WORKSPACE
from exporter.metrics.catalog import CATALOG, LIVE_INFO, Family, Kind, Scope

TARGET_LABELS = {"job", "instance", "pod"}
# Families of conversations have the label in a process that holds a shard.
OF_SHARDS = {Scope.CONVERSATIONS, Scope.COUNTED, Scope.LIVE}

# Series that are not the exporter's own families: the client's process collector, and Prometheus itself.
FOREIGN = {
    "ALERTS",
    "ALERTS_FOR_STATE",
    "up",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}

# What Prometheus writes about alerts, with labels of theirs.
OF_ALERTS = {
    "ALERTS": {"alertname", "alertstate", "severity"},
    "ALERTS_FOR_STATE": {"alertname", "severity"},
}


@attrs.frozen(kw_only=True)
class Selector:
    """One vector selector: its metric, its matchers by label, and the functions around it, innermost last."""

    name: str
    matchers: dict[str, str]
    functions: tuple[str, ...]


def selectors(expr: str) -> list[Selector]:
    """Every selector of the expression. Raises ValueError where it does not parse."""
    return list(_selectors(promql_parser.parse(expr), ()))


def labels(expr: str) -> set[str]:
    """Every label that the expression matches, groups or joins by."""
    named: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            named.update(matcher.name for matcher in node.matchers.matchers)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            named.update(node.modifier.labels)
        elif isinstance(node, promql_parser.BinaryExpr) and node.modifier:
            named.update(node.modifier.group_labels or ())
            if node.modifier.matching:
                named.update(node.modifier.matching.labels)

    promql_parser.walk(promql_parser.parse(expr), visit)
    return named


def family_of(name: str) -> Family | None:
    """The family whose series are called ``name``."""
    return _SERIES.get(name)


def recorded(slo: Slo) -> set[str]:
    """Names that the recording rules produce."""
    return {rule["record"] for group in recording(slo)["groups"] for rule in group["rules"]}


def problems(expr: str, slo: Slo) -> list[str]:
    """Metrics that no exporter exposes, labels their metric does not have, and labels that no metric has."""
    found = []
    chosen = (WORKSPACE, *LABEL_CHOICES)
    everywhere = TARGET_LABELS | set(chosen) | {"le"}
    for each in CATALOG:
        everywhere |= set(each.labels)
    for selector in selectors(expr):
        family = family_of(selector.name)
        if family is not None:
            allowed = TARGET_LABELS | set(family.label_names(chosen))
            allowed |= {WORKSPACE} if family is LIVE_INFO else set()
            allowed |= {"shard"} if family.scope in OF_SHARDS else set()
            allowed |= {"le"} if selector.name.endswith("_bucket") else set()
        elif selector.name in recorded(slo):
            allowed = {"job", *chosen}
        elif selector.name in FOREIGN:
            allowed = {"job", "instance"} | OF_ALERTS.get(selector.name, set())
            everywhere |= OF_ALERTS.get(selector.name, set())
        else:
            found.append(f"unknown metric {selector.name}")
            continue
        found += [f"{selector.name} has no label {x}" for x in selector.matchers.keys() - allowed]
    return found + [f"unknown label {x}" for x in labels(expr) - everywhere]


def _series() -> Iterator[tuple[str, Family]]:
    for family in CATALOG:
        if family.kind is Kind.HISTOGRAM:
            yield from ((f"{family.name}_{part}", family) for part in ("bucket", "sum", "count"))
        else:
            yield family.sample_name, family


_SERIES = dict(_series())


def _selectors(node: Any, functions: tuple[str, ...]) -> Iterator[Selector]:
    match node:
        case promql_parser.VectorSelector():
            matchers = {m.name: f"{_OPERATORS[str(m.op)]}{m.value}" for m in node.matchers.matchers}
            yield Selector(name=node.name or "", matchers=matchers, functions=functions)
        case promql_parser.MatrixSelector():
            yield from _selectors(node.vector_selector, functions)
        case promql_parser.Call():
            for argument in node.args:
                yield from _selectors(argument, (*functions, node.func.name))
        case promql_parser.BinaryExpr():
            yield from _selectors(node.lhs, functions)
            yield from _selectors(node.rhs, functions)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr():
            yield from _selectors(node.expr, functions)
        case promql_parser.SubqueryExpr() | promql_parser.UnaryExpr():
            yield from _selectors(node.expr, functions)


_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
