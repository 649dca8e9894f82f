"""Pure: what a dashboard is before one of Grafana's schemas spells it: rows of panels, variables, annotations.

`classic` and `v2` write the same boards in the two schemas that Grafana reads.
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
    """One query of a panel and the name of its series; ``interval`` is its smallest step, which rates span."""

    expr: str
    legend: str
    exemplar: bool = False
    instant: bool = False
    shape: str = ""
    interval: str = ""


@attrs.frozen(kw_only=True)
class Panel:
    """One panel. ``options``, ``defaults`` and ``overrides`` are what the panel plugin of that ``kind`` reads."""

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
    """A heading and the panels below it, which fill lines of 24 columns."""

    title: str
    panels: Sequence[Panel]


@attrs.frozen(kw_only=True)
class Choice:
    """A variable whose values are a query's answer; ``every`` is what *All* stands for."""

    name: str
    label: str
    query: str
    every: str


@attrs.frozen(kw_only=True)
class Text:
    """A variable that is typed in."""

    name: str
    label: str
    description: str


@attrs.frozen(kw_only=True)
class Annotation:
    """Marks on every graph. With ``at_value`` the sample's value is the time, in milliseconds."""

    name: str
    expr: str
    color: str
    text: str
    at_value: bool
    step: str = "60s"

    @property
    def title(self) -> str:
        """What a single mark is called."""
        return self.name.removesuffix("s")


@attrs.frozen(kw_only=True)
class Board:
    """A dashboard; the first row stands without its heading at the top."""

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
    """Each panel with its column and line: side by side while there is room, then below the highest of a line."""
    x, y, high = 0, top, 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, high = 0, y + high, 0
        yield panel, x, y
        x, high = x + panel.width, max(high, panel.height)


def bottom(panels: Sequence[Panel], top: int = 0) -> int:
    """The first line below all of ``panels``."""
    return max((y + panel.height for panel, _, y in lines(panels, top)), default=top)
