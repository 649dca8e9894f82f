"""Pure: the dashboards' data model, independent of Grafana's schemas: rows of panels, variables, annotations.

`classic` and `v2` render the same boards in Grafana's two schemas.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

Json = dict[str, Any]

COLUMNS = 24
DATASOURCE = "${datasource}"
PLUGIN = "prometheus"


@attrs.frozen
class Query:
    """A query of a panel and the name of its series. ``interval`` is the smallest step and range of its rates."""

    expr: str
    legend: str
    exemplar: bool = False
    instant: bool = False
    shape: str = ""
    interval: str = ""


@attrs.frozen(kw_only=True)
class Panel:
    """A panel. The panel plugin of its ``kind`` defines ``options``, ``defaults`` and ``overrides``."""

    kind: str
    title: str
    description: str
    width: int
    height: int
    queries: tuple[Query, ...]
    options: Json
    defaults: Json
    overrides: tuple[Json, ...] = ()
    transformations: tuple[tuple[str, Json], ...] = ()


@attrs.frozen
class Row:
    """A heading and the panels below it, placed in lines of 24 columns."""

    title: str
    panels: Sequence[Panel]


@attrs.frozen(kw_only=True)
class Choice:
    """A variable whose values are the result of a query; ``every`` is the value of *All*."""

    name: str
    label: str
    query: str
    every: str


@attrs.frozen(kw_only=True)
class Text:
    """A variable with a text box."""

    name: str
    label: str
    description: str


@attrs.frozen(kw_only=True)
class Annotation:
    """Marks on every graph. With ``at_value`` the value of a sample is the time of its mark, in milliseconds."""

    name: str
    expr: str
    color: str
    text: str
    at_value: bool
    step: str = "60s"

    @property
    def title(self) -> str:
        """Text of a single mark."""
        return self.name.removesuffix("s")


@attrs.frozen(kw_only=True)
class Board:
    """A dashboard. The first row is shown without its heading."""

    uid: str
    title: str
    description: str
    tags: tuple[str, ...]
    since: str
    refresh: str
    choices: tuple[Choice, ...]
    texts: tuple[Text, ...]
    annotations: tuple[Annotation, ...]
    rows: tuple[Row, ...]


def lines(panels: Sequence[Panel], top: int = 0) -> Iterator[tuple[Panel, int, int]]:
    """Yield each panel with its column and line: side by side while they fit, else on a new line."""
    x, y, high = 0, top, 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, high = 0, y + high, 0
        yield panel, x, y
        x, high = x + panel.width, max(high, panel.height)


def bottom(panels: Sequence[Panel], top: int = 0) -> int:
    """Return the first line below all ``panels``."""
    return max((y + panel.height for panel, _, y in lines(panels, top)), default=top)
