"""Pure: the results of a case as values, and their format: tables in Markdown, numbers in JSON."""

import statistics
from collections.abc import Mapping, Sequence

import attrs


@attrs.frozen
class Spread:
    """Median and range of the rounds' measurements."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratio(upper: Sequence[float], lower: Sequence[float]) -> Spread:
    """Return the spread of the ratios of each round, whose two values were measured right after each other."""
    return spread([a / b for a, b in zip(upper, lower, strict=True)])


def number(value: float) -> str:
    """Format a number with three significant digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@attrs.frozen(kw_only=True)
class Table:
    """A table of text; the first column names what is measured."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.columns, ["---", *("---:" for _ in self.columns[1:])], *self.rows]
        return "\n".join((f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""))


@attrs.frozen(kw_only=True)
class Plot:
    """A plot of named lines of (x, y), or with ``bars`` of one bar per name: the median and its range."""

    title: str
    x_label: str = ""
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]] = attrs.field(factory=dict)
    bars: Mapping[str, Spread] = attrs.field(factory=dict)
    is_log: bool = False


@attrs.frozen(kw_only=True)
class Goal:
    """A goal and its measured value."""

    what: str
    measured: float
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        if self.at_most is not None:
            return self.measured <= self.at_most
        return self.at_least is not None and self.measured >= self.at_least

    @property
    def row(self) -> tuple[str, str, str, str]:
        bound = f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"
        unit = f" {self.unit}" if self.unit else ""
        return self.what, f"{bound}{unit}", f"{number(self.measured)}{unit}", "yes" if self.is_met else "**no**"


GOAL_COLUMNS = ("goal", "aim", "measured", "met")


@attrs.frozen(kw_only=True)
class Report:
    """All results of a case; ``data`` is written to JSON."""

    name: str
    title: str
    method: str
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()
    goals: Sequence[Goal] = ()
    data: object = None

    def markdown(self, machine: Mapping[str, str], pictures: Sequence[str]) -> str:
        """Return the page; ``pictures`` are names of files in the same folder."""
        parts = [f"# {self.title}\n", f"{self.method}\n", *map(str, self.tables)]
        if self.goals:
            parts.append(str(Table(title="Goals", columns=GOAL_COLUMNS, rows=[goal.row for goal in self.goals])))
        parts += [f"![{self.title}]({name})\n" for name in pictures]
        parts.append(str(Table(title="Machine", columns=("what", "value"), rows=list(machine.items()))))
        return "\n".join(parts)
