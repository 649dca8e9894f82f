"""Tasks: what the ways of writing numbers as text cost in a whole page (`exporter.metrics.numbers`)."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from time import process_time
from unittest.mock import patch

from exporter.metrics import exposition, numbers, series
from exporter.metrics.formats import Format
from exporter.metrics.numbers import number_text, number_texts

from ..options import Options
from ..pages import filled, page
from ..report import Goal, Report, Table, ratio, spread
from .updates import Unequal

_FORMS = {"text": Format.TEXT_0_0_4, "OpenMetrics": Format.OPENMETRICS_1_0_0}
_COMPARED = frozenset({"phonic_conversation_live_last_update_timestamp_seconds", "phonic_turn_response_seconds"})
_CELLS = ((1000, 20), (1000, 200))  # live conversations, label sets


def writing_numbers(options: Options) -> Report:
    """A page with numbers written in batches, one by one, and one by one with ``repr``."""
    rounds = options.rounds_or(25)
    rows, data, goals = [], {}, []
    for live, agents in _CELLS:
        ours = page(filled(live=live, agents=agents))
        ours.render(Format.TEXT_0_0_4)  # from the second page on, each tells its own duration
        for name, form in _FORMS.items():
            times: dict[str, list[float]] = {way: [] for way in _WAYS}
            written = set()
            for _ in range(rounds):
                for way, use in _WAYS.items():
                    with use:
                        times[way].append(_median_of_five(partial(ours.render, form)))
                        written.add(ours.render(form, _COMPARED))
            if len(written) != 1:
                raise Unequal(f"the ways write other pages: {name}, {live} live, {agents} label sets")
            singly, by_repr = ratio(times["one by one"], times["batch"]), ratio(times["repr"], times["batch"])
            rows.append(
                (
                    f"{live:,} live, {agents} label sets, {name}",
                    *(str(spread(times[way])) for way in _WAYS),
                    str(singly),
                    str(by_repr),
                )
            )
            data[f"{live} {agents} {name}"] = times
            if (live, agents) == _CELLS[-1]:
                saved = 100 * (1 - 1 / singly.median)
                goals.append(Goal(what=f"Batches save of a page, {name}", measured=saved, at_least=5, unit="%"))
    return Report(
        name="numbers",
        title="Numbers as text, in a whole page",
        method="Milliseconds of CPU for one page, median (lowest to highest) of interleaved rounds in one "
        "process; `python -m benchmarks numbers` repeats it. Batch: `number_texts` for the column of a gauge, "
        "as the exporter does. One by one: `number_text` for each sample. repr: the same without msgspec.",
        tables=[Table(title="Milliseconds of CPU", columns=_COLUMNS, rows=rows)],
        goals=goals,
        data=data,
    )


_COLUMNS = ("page", "batch", "one by one", "repr", "one by one to batch", "repr to batch")


def _one_by_one(values: Sequence[float]) -> list[str]:
    return [number_text(value) for value in values]


def _median_of_five(call: Callable[[], object]) -> float:
    found = []
    for _ in range(5):
        start = process_time()
        call()
        found.append((process_time() - start) * 1000)
    return statistics.median(found)


class _Way:
    """Writes numbers in one way while it is entered."""

    def __init__(self, texts: Callable[[Sequence[float]], list[str]], float_text: Callable[[float], str]) -> None:
        self._patches = (
            patch.object(exposition, "number_texts", texts),
            patch.object(numbers, "repr_text", float_text),
            patch.object(series, "repr_text", float_text),
        )

    def __enter__(self) -> None:
        for each in self._patches:
            each.start()

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()


_WAYS = {
    "batch": _Way(number_texts, numbers.repr_text),
    "one by one": _Way(_one_by_one, numbers.repr_text),
    "repr": _Way(_one_by_one, repr),
}
