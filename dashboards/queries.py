"""Pure: extracts the queries of a dashboard, with variables replaced as Grafana does."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

# Grafana's values of the variables if *All* is selected and the last hour is shown.
EVERYTHING: Mapping[str, str] = {
    "job": ".+",
    "instance": ".+",
    "workspace": ".*",
    "project": ".*",
    "agent": ".*",
    "conversation": "",
    "__rate_interval": "1m",
    "__range": "1h",
}


@attrs.frozen(kw_only=True)
class PanelQuery:
    """A query, its panel, its ``unit``, and whether it is ``instant`` or over a range."""

    board: str
    panel: str
    kind: str
    ref: str
    expr: str
    unit: str
    instant: bool
    exemplar: bool


def substituted(text: str, variables: Mapping[str, str] = EVERYTHING) -> str:
    """Replace ``$name`` and ``${name}`` in ``text``. Raises: KeyError for an unknown variable."""
    return re.sub(r"\$(?:{(\w+)}|(\w+))", lambda m: variables[m[1] or m[2]], text)


def panels(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every panel except rows, which are only headings."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def panel_queries(board: Mapping[str, Any], variables: Mapping[str, str] = EVERYTHING) -> list[PanelQuery]:
    """Return every query of a dashboard's JSON. A query's minimum step replaces the rate interval."""
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
    """Return the unit of the panel, or of the table column that shows the query."""
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
