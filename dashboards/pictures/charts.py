"""Pure: draws series as SVG: lines, stacked areas, heatmaps with exemplars, histograms."""

import itertools
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

import attrs

from .asking import Window
from .values import PALETTE, shown, ticks

LEFT, BOTTOM, TOP, RIGHT = 62, 20, 6, 10
GRID, TEXT, DIAMOND = "#2c3235", "#9fa7b3", "#8ab8ff"
BARS = "#5794f2"


@attrs.frozen
class Line:
    """A series: times and values, NaN for missing ones."""

    name: str
    points: list[tuple[float, float]]

    @property
    def last(self) -> float:
        return next((value for _, value in reversed(self.points) if not math.isnan(value)), math.nan)

    @property
    def highest(self) -> float:
        return max((value for _, value in self.points if not math.isnan(value)), default=math.nan)


@attrs.frozen(kw_only=True)
class Plane:
    """Maps times and values to pixels; ``top`` is the value at the upper edge."""

    width: float
    height: float
    window: Window
    top: float

    def x(self, time: float) -> float:
        return LEFT + (time - self.window.start) / self.window.seconds * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - value / self.top * (self.height - BOTTOM - TOP)


def lines(
    series: Sequence[Line],
    window: Window,
    size: tuple[float, float],
    *,
    unit: str,
    stacked: bool,
    limits: Sequence[tuple[float, str]],
    exemplars: Sequence[tuple[float, float]],
    ceiling: float | None,
) -> str:
    """Draw lines or stacked areas from 0 up, dashed limits, and exemplars as diamonds."""
    drawn = _stacked(series) if stacked else [(line, line.points, []) for line in series]
    highest = max((value for _, points, _ in drawn for _, value in points if not math.isnan(value)), default=0.0)
    # A limit far above all values would make the lines flat.
    near = [value for value, _ in limits if value <= 3 * highest]
    top = max([1.08 * highest, *(1.15 * value for value in near), *(value for _, value in exemplars)]) or 1.0
    plane = Plane(width=size[0], height=size[1], window=window, top=max(top, ceiling or 0.0))
    parts = [_frame(plane, unit)]
    for index, (_, points, base) in enumerate(drawn):
        hue = PALETTE[index % len(PALETTE)]
        for piece in _pieces(points, window.step):
            path = " ".join(f"{plane.x(t):.1f},{plane.y(v):.1f}" for t, v in piece)
            under = [(t, v) for t, v in base if piece[0][0] <= t <= piece[-1][0]] or [
                (piece[0][0], 0.0),
                (piece[-1][0], 0.0),
            ]
            floor = " ".join(f"{plane.x(t):.1f},{plane.y(v):.1f}" for t, v in reversed(under))
            opacity = 0.4 if stacked else 0.05
            parts.append(f'<polygon points="{path} {floor}" fill="{hue}" fill-opacity="{opacity}"/>')
            parts.append(f'<polyline points="{path}" fill="none" stroke="{hue}" stroke-width="1.4"/>')
    parts += [
        f'<line x1="{LEFT}" x2="{plane.width - RIGHT}" y1="{plane.y(value):.1f}" y2="{plane.y(value):.1f}" '
        f'stroke="{hue}" stroke-width="1.4" stroke-dasharray="8 6"/>'
        for value, hue in limits
        if value <= plane.top
    ]
    parts += [_diamond(plane.x(time), plane.y(value)) for time, value in exemplars]
    return _svg(parts, size)


def heat(
    bounds: Sequence[str],
    columns: Sequence[tuple[float, Sequence[float]]],
    window: Window,
    size: tuple[float, float],
    exemplars: Sequence[tuple[float, float]],
) -> str:
    """Draw columns over time with a cell for each bucket (upper ``bounds``, lowest first); brighter means more."""
    plane = Plane(width=size[0], height=size[1], window=window, top=len(bounds))
    most = max((count for _, counts in columns for count in counts), default=0.0) or 1.0
    parts = [_times(plane)]
    every = max(1, math.ceil(len(bounds) / 9))
    parts += [
        f'<text x="{LEFT - 6}" y="{plane.y(number + 1) + 4:.1f}" text-anchor="end">{escape(_bound(bound))}</text>'
        for number, bound in enumerate(bounds)
        if number % every == every - 1
    ]
    cell = plane.y(0) - plane.y(1)
    for (time, counts), (until, _) in itertools.pairwise([*columns, (window.end, ())]):
        wide = plane.x(until) - plane.x(time)
        parts += [
            f'<rect x="{plane.x(time):.1f}" y="{plane.y(number + 1):.1f}" width="{max(wide - 0.6, 0.4):.1f}" '
            f'height="{cell - 0.6:.1f}" fill="{_shade(count / most)}"/>'
            for number, count in enumerate(counts)
            if count > 1e-9
        ]
    edges = [float(bound) for bound in bounds]
    for time, value in exemplars:
        bucket = next(number for number, edge in enumerate(edges) if value <= edge)
        parts.append(_diamond(plane.x(time), plane.y(bucket + 0.5)))
    return _svg(parts, size)


def spread(values: Sequence[float], size: tuple[float, float], unit: str) -> str:
    """Draw how many values are in each of a dozen equal ranges."""
    step = ticks(max(values) or 1.0, unit, 12)[1]
    counts = [0] * (int(max(values) / step) + 1)
    for value in values:
        counts[int(value / step)] += 1
    window = Window(start=0.0, end=step * len(counts), variables={})
    plane = Plane(width=size[0], height=size[1], window=window, top=1.1 * max(counts))
    parts = [_levels(plane, "short")]
    for number, count in enumerate(counts):
        x, y = plane.x(number * step), plane.y(count)
        wide = plane.x(step) - plane.x(0)
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{wide - 2:.1f}" height="{plane.y(0) - y:.1f}" '
            f'fill="{BARS}"/>'
        )
        if number % math.ceil(len(counts) * 60 / plane.width) == 0:
            parts.append(f'<text x="{x:.1f}" y="{size[1] - 5}">{escape(shown(number * step, unit))}</text>')
    return _svg(parts, size)


def _stacked(series: Sequence[Line]) -> list[tuple[Line, list[tuple[float, float]], list[tuple[float, float]]]]:
    """Return each line with its points on top of the previous lines, and the points below; missing counts as 0."""
    times = sorted({time for line in series for time, _ in line.points})
    below = dict.fromkeys(times, 0.0)
    result = []
    for line in series:
        values = {time: value for time, value in line.points if not math.isnan(value)}
        above = {time: below[time] + values.get(time, 0.0) for time in times}
        result.append((line, list(above.items()), list(below.items())))
        below = above
    return result


def _pieces(points: Sequence[tuple[float, float]], step: float) -> list[list[tuple[float, float]]]:
    """Split points into pieces at missing values and gaps."""
    pieces: list[list[tuple[float, float]]] = []
    before = -math.inf
    for time, value in points:
        if math.isnan(value):
            continue
        if time - before > 1.5 * step:
            pieces.append([])
        pieces[-1].append((time, value))
        before = time
    return pieces


def _frame(plane: Plane, unit: str) -> str:
    return _levels(plane, unit) + _times(plane)


def _levels(plane: Plane, unit: str) -> str:
    return "".join(
        f'<line x1="{LEFT}" x2="{plane.width - RIGHT}" y1="{plane.y(value):.1f}" y2="{plane.y(value):.1f}" '
        f'stroke="{GRID}"/><text x="{LEFT - 6}" y="{plane.y(value) + 4:.1f}" text-anchor="end">'
        f"{escape(shown(value, unit))}</text>"
        for value in ticks(plane.top, unit, max(2, int(plane.height / 32)))
    )


def _times(plane: Plane) -> str:
    window = plane.window
    count = max(2, int(plane.width / 110))
    step = next((each for each in (5, 10, 15, 30, 60, 300, 900, 3600) if window.seconds / each <= count), 7200)
    first = math.ceil(window.start / step) * step
    pattern = "%H:%M:%S" if step < 60 else "%H:%M"
    return "".join(
        f'<line x1="{plane.x(at):.1f}" x2="{plane.x(at):.1f}" y1="{TOP}" y2="{plane.height - BOTTOM}" '
        f'stroke="{GRID}"/><text x="{plane.x(at):.1f}" y="{plane.height - 5}" text-anchor="middle">'
        f"{datetime.fromtimestamp(at, UTC).strftime(pattern)}</text>"
        for at in range(first, int(window.end) + 1, step)
        if plane.x(at) < plane.width - 25
    )


def _bound(bound: str) -> str:
    return bound if bound == "+Inf" else shown(float(bound), "s")


def _shade(share: float) -> str:
    light = share**0.5
    return f"rgb({60 + 195 * light:.0f},{30 + 140 * light:.0f},{10 + 70 * light:.0f})"


def _diamond(x: float, y: float) -> str:
    return f'<path d="M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z" fill="{DIAMOND}" stroke="#111217" stroke-width="0.8"/>'


def _svg(parts: Sequence[str], size: tuple[float, float]) -> str:
    return f'<svg width="{size[0]:.0f}" height="{size[1]:.0f}" fill="{TEXT}">{"".join(parts)}</svg>'
