"""State: the metrics page: every family of the catalog, with the source of its series."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from time import perf_counter

from . import catalog
from .catalog import CATALOG, Family
from .exposition import Block, finish, has_samples_named, render
from .formats import Format
from .series import Column, Numbers, Sample, Series, samples
from .store import MetricStore, accumulated

PART = 128 * 1024
"""Smallest part of a page in bytes, except the last one. A family is never split."""

Rows = Iterable[tuple[tuple[str, ...], float]]
GaugeReader = Callable[[], Iterable[Sample] | Mapping[Family, Column]]
"""Reads a gauge: returns its samples, or columns of all families that share this reader."""


class Page:
    """Writes the metrics page.

    ``gauges`` maps each gauge family to a function that reads it from its owner. ``process`` renders
    ``process_*``. ``exposition`` writes the families: our own writer, or `client_exposition.render`, which gives
    the same bytes more slowly. ``hides``: whether a page of this moment is without a family. Raises: ValueError if
    a family of the catalog has no source.
    """

    def __init__(
        self,
        store: MetricStore,
        gauges: Mapping[Family, GaugeReader],
        process: Callable[[Format, frozenset[str] | None], bytes],
        *,
        exposition: Callable[[Iterable[Block], Format], Iterator[bytes]] = render,
        hides: Callable[[Family], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._gauges = {**gauges, catalog.RENDER_DURATION: self._own_cost}
        self._process = process
        self._exposition = exposition
        self._hides = hides
        self._duration: float | None = None
        held = set(accumulated())
        for family in CATALOG:
            if family not in held and family not in self._gauges:
                raise ValueError(f"nothing feeds {family.name}")

    def parts(self, form: Format, names: frozenset[str] | None = None) -> Iterator[bytes]:
        """The page in parts of at least `PART` bytes, so that other tasks can run between two of them.

        ``names`` restricts the page to these families, by family or sample name. All numbers are those of the
        moment of the call; their text is written when the part is taken.
        """
        started = perf_counter()
        blocks = list(self._blocks(names))
        process = self._process(form, names)
        return self._write(blocks, process, form, perf_counter() - started, is_whole=names is None)

    def render(self, form: Format, names: frozenset[str] | None = None) -> bytes:
        """The page in one piece, for callers that do not share an event loop."""
        return b"".join(self.parts(form, names))

    def _write(
        self, blocks: Iterable[Block], process: bytes, form: Format, spent: float, *, is_whole: bool
    ) -> Iterator[bytes]:
        started = perf_counter()
        waiting: list[bytes] = []
        size = 0
        for part in finish(chain(self._exposition(blocks, form), (process,)), form):
            waiting.append(part)
            size += len(part)
            if size >= PART:
                spent += perf_counter() - started
                yield b"".join(waiting)
                started = perf_counter()
                waiting, size = [], 0
        if is_whole:
            self._duration = spent + perf_counter() - started
        yield b"".join(waiting)

    def _blocks(self, names: frozenset[str] | None) -> Iterator[Block]:
        shared: dict[Family, Column] = {}
        for family in CATALOG:
            if (names is None or has_samples_named(family, names)) and not self._hides(family):
                yield family, self._rows(family, shared)

    def _rows(self, family: Family, shared: dict[Family, Column]) -> list[tuple[Series, Numbers]] | Column:
        """A family's series as they are now. ``shared``: the columns that shared readers have returned."""
        source = self._gauges.get(family)
        if source is None:
            return self._store.shown(family)
        if family not in shared:
            given = source()
            if not isinstance(given, Mapping):
                return Column.of(given)
            shared.update(given)
        return shared[family]

    def _own_cost(self) -> list[Sample]:
        return [] if self._duration is None else [("", self._duration)]


def rows(
    family: Family, source: Callable[[], Rows], *, names: tuple[str, ...] | None = None
) -> tuple[Family, Callable[[], list[Sample]]]:
    """A gauge and its reader. ``source`` returns label values and number of each series.

    ``names``: of its labels, if they are not just the family's own.
    """
    return family, lambda: samples(family.labels if names is None else names, source())


def one(family: Family, source: Callable[[], float | None]) -> tuple[Family, Callable[[], list[Sample]]]:
    """A gauge without labels and its reader. The gauge is absent while ``source`` returns None."""

    def sample() -> list[Sample]:
        value = source()
        return [] if value is None else [("", value)]

    return family, sample
