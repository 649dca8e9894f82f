"""Pure: what a dashboard asks Prometheus: every query with its variables replaced, as Grafana would send it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

# What Grafana puts in where everything is chosen and the last hour is shown.
EVERYTHING: Mapping[str, str] = {
    "job": ".+",
    "instance": ".+",
    "project": ".*",
    "agent": ".*",
    "conversation": "",
    "__rate_interval": "1m",
    "__range": "1h",
}


@attrs.frozen(kw_only=True)
class PanelQuery:
    """One query: where it is, what is asked, in which ``unit`` and whether ``instant`` or over a range."""

    board: str
    panel: str
    kind: str
    ref: str
    expr: str
    unit: str
    instant: bool
    exemplar: bool


def substituted(text: str, variables: Mapping[str, str] = EVERYTHING) -> str:
    """``text`` with ``$name`` and ``${name}`` replaced. Raises KeyError for a variable that is not given."""
    return re.sub(r"\$(?:{(\w+)}|(\w+))", lambda m: variables[m[1] or m[2]], text)


def panels(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every panel that shows data; rows are only headings."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def panel_queries(board: Mapping[str, Any], variables: Mapping[str, str] = EVERYTHING) -> list[PanelQuery]:
    """Every query of a dashboard's JSON; one with a minimum step of its own looks back that far."""
    return [
        PanelQuery(
            board=board["uid"],
            panel=panel["title"],
            kind=panel["type"],
            ref=target["refId"],
            expr=substituted(
                target["expr"],
                {**variables, "__rate_interval": target.get("interval") or variables["__rate_interval"]},
            ),
            unit=_unit(panel, target["refId"]),
            instant=bool(target.get("instant")),
            exemplar=bool(target.get("exemplar")),
        )
        for panel in panels(board)
        for target in panel["targets"]
    ]


def _unit(panel: Mapping[str, Any], ref: str) -> str:
    """The panel's unit, or that of the table column which shows the query."""
    config = panel["fieldConfig"]
    names: Mapping[str, str] = {}
    for step in panel.get("transformations", ()):
        names = step["options"].get("renameByName", names)
    column = names.get(f"Value #{ref}")
    for override in config["overrides"]:
        if override["matcher"]["options"] == column:
            for wanted in override["properties"]:
                if wanted["id"] == "unit":
                    return str(wanted["value"])
    return str(config["defaults"]["unit"])
