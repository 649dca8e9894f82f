"""Tasks: cost of a page: rendering, compared with prometheus_client, and compression."""

import statistics
from collections.abc import Callable
from functools import partial
from time import perf_counter
from zlib import compress

from exporter.metrics.formats import Format

from ..options import Options
from ..pages import Library, filled, page
from ..report import Goal, Plot, Report, Table, number, ratio, spread
from .updates import Unequal

LEVELS = (1, 6, 9)
_FORMS = {"text": Format.TEXT_0_0_4, "OpenMetrics": Format.OPENMETRICS_1_0_0}
_CELLS = ((0, 20), (100, 20), (1000, 1), (1000, 20), (1000, 100), (10_000, 20))
_MAIN = (1000, 20)


def rendering(options: Options) -> Report:
    rounds = options.rounds_or(5)
    rows, data, goals = [], {}, []
    lines: dict[str, list[tuple[float, float]]] = {}
    for live, agents in _CELLS[:-1] if options.quick else _CELLS:
        conversations = filled(live=live, agents=agents)
        for name, form in _FORMS.items():
            ours = page(conversations)
            rendered = ours.render(form)  # the first page lacks the metrics about its own rendering
            library = Library(rendered, form)
            if library.render() != rendered:
                raise Unequal(f"the library renders a different page: {name}, {live} live, {agents} agents")
            milliseconds: dict[str, list[float]] = {"ours": [], "library": []}
            for _ in range(rounds):
                milliseconds["library"].append(_milliseconds(library.render))
                milliseconds["ours"].append(_burst(partial(ours.render, form)))
            faster = ratio(milliseconds["library"], milliseconds["ours"])
            samples = sum(1 for line in rendered.splitlines() if not line.startswith(b"#"))
            rows.append(
                (
                    f"{live:,} live, {agents} agents, {name}",
                    f"{samples:,}",
                    number(len(rendered) / 1000),
                    str(spread(milliseconds["ours"])),
                    str(spread(milliseconds["library"])),
                    str(faster),
                )
            )
            data[f"{live} {agents} {name}"] = {**milliseconds, "samples": samples, "bytes": len(rendered)}
            if agents == _MAIN[1]:
                for who, values in milliseconds.items():
                    lines.setdefault(f"{who}, {name}", []).append((samples, statistics.median(values)))
            if (live, agents) == _MAIN:
                what = f"Render, 1,000 live, {name}: library to ours"
                goals.append(Goal(what=what, measured=faster.median, at_least=10))
    return Report(
        name="rendering",
        title="Rendering a page",
        method="Milliseconds in one process, median (lowest to highest) of interleaved rounds. The library is "
        "prometheus_client's `generate_latest` with a collector that has all numbers in memory, as we have. Both "
        "write the same bytes, compared before measuring; exemplars included in OpenMetrics.",
        tables=[Table(title="Milliseconds", columns=_COLUMNS, rows=rows)],
        plots=[Plot(title="Rendering a page", x_label="samples", y_label="ms", lines=lines, is_log=True)],
        goals=goals,
        data=data,
    )


_COLUMNS = ("page", "samples", "KB", "ours", "library", "library to ours")


def packing(options: Options) -> Report:
    rounds = options.rounds_or(5)
    rows, data = [], {}
    for live, agents in (_CELLS[1], _MAIN):
        for name, form in _FORMS.items():
            rendered = page(filled(live=live, agents=agents)).render(form)
            each: dict[int, list[float]] = {level: [] for level in LEVELS}
            for _ in range(rounds):
                for level in LEVELS:
                    each[level].append(_burst(partial(compress, rendered, level, 31)))
            sizes = {level: len(compress(rendered, level, 31)) for level in LEVELS}
            cells = (f"{spread(each[level])} ms, {number(sizes[level] / 1000)} KB" for level in LEVELS)
            rows.append((f"{live:,} live, {agents} agents, {name}", number(len(rendered) / 1000), *cells))
            data[f"{live} {agents} {name}"] = {"milliseconds": each, "bytes": sizes}
    return Report(
        name="packing",
        title="Packing a page: levels of gzip",
        method="The exporter uses level 1, and a thread for large pages; prometheus_client uses level 9.",
        tables=[
            Table(title="Packing", columns=("page", "KB", *(f"level {level}" for level in LEVELS)), rows=rows)
        ],
        data=data,
    )


def _milliseconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1000


def _burst(call: Callable[[], object]) -> float:
    """Return the median of several calls, to reduce the noise of short ones."""
    return statistics.median(_milliseconds(call) for _ in range(5))
