"""Pure: formats values as a panel's JSON demands: units, decimals, colours, names."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Grafana's dark theme.
COLORS = {
    "green": "#73bf69",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "text": "#8e8e99",
    "transparent": "none",
}
PALETTE = (
    "#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#37a2a8", "#a0522d", "#c8f2c2", "#fff899",
)  # fmt: skip

_DURATIONS = ((86400.0, " d"), (3600.0, " h"), (60.0, " min"), (1.0, " s"))
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "K"))
_BINARY = ((2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"))
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
_SUFFIXES = {"cpm": " /min", "cps": " /s", "Bps": "B/s"}


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """Format a number approximately as Grafana does."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{_digits(100 * value, decimals)}%"
    if unit == "dthms":
        return f"{int(value) // 3600:02}:{int(value) // 60 % 60:02}:{int(value) % 60:02}"
    if unit == "s":
        if 0 < abs(value) < 1:
            return f"{_digits(1000 * value, 0)} ms"
        factor, suffix = next((each for each in _DURATIONS if abs(value) >= each[0]), _DURATIONS[-1])
        return f"{_digits(value / factor, decimals)}{suffix}"
    if unit == "bytes":
        size, suffix = next((each for each in _BINARY if abs(value) >= each[0]), (1, " B"))
        return f"{_digits(value / size, decimals)}{suffix}"
    if unit.startswith("currency"):
        code = unit.removeprefix("currency")
        return f"{_SYMBOLS.get(code, code + ' ')}{_digits(value, 2 if decimals is None else decimals)}"
    factor, prefix = next((each for each in _PREFIXES if abs(value) >= each[0]), (1.0, ""))
    space = " " if prefix or unit == "Bps" else ""
    return f"{_digits(value / factor, decimals)}{space}{prefix}{_SUFFIXES.get(unit, '')}"


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    text = f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def color(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the colour of the highest threshold step that ``value`` reaches."""
    reached = [step for step in steps if step.get("value") is None or value >= step["value"]]
    return COLORS[reached[-1]["color"]] if reached else COLORS["text"]


def mapped(value: float | None, defaults: Mapping[str, Any]) -> tuple[str, str]:
    """Return text and colour of a number by a panel's mappings, unit and thresholds."""
    missing = value is None or math.isnan(value)
    for mapping in defaults.get("mappings", ()):
        options = mapping["options"]
        if mapping["type"] == "special" and missing:
            return options["result"]["text"], COLORS[options["result"]["color"]]
        if mapping["type"] == "value" and value is not None and f"{value:g}" in options:
            result = options[f"{value:g}"]
            hue = COLORS[result["color"]] if "color" in result else color(value, _steps(defaults))
            return result["text"], hue
    if value is None or missing:
        return defaults.get("noValue", "no data"), COLORS["text"]
    return shown(value, defaults["unit"], defaults.get("decimals")), color(value, _steps(defaults))


def _steps(defaults: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    steps: Sequence[Mapping[str, Any]] = defaults.get("thresholds", {}).get("steps", ())
    return steps


def legend(target: Mapping[str, Any], metric: Mapping[str, str]) -> str:
    """Return the name of a series."""
    return re.sub(r"{{(\w+)}}", lambda m: metric.get(m[1], ""), target["legendFormat"])


def ticks(top: float, unit: str, most: int) -> list[float]:
    """Return at most ``most`` round values from 0 up to ``top``."""
    whole = _whole(top, unit)
    rough = top / whole / most
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    return [whole * step * number for number in range(int(top / whole / step + 1e-9) + 1)]


def _whole(top: float, unit: str) -> float:
    """Return the base of round values: minutes and mebibytes are not decimal."""
    if unit == "bytes":
        return next((size for size, _ in _BINARY if top >= 2 * size), 1.0)
    if unit == "s":
        return next((length for length, _ in _DURATIONS if top >= 2 * length), 1.0)
    return 1.0
