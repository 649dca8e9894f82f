"""Pure: parses and validates ``slo.yml``.

`load` and `Slo.parse` check every value, so that the alerts of any `Slo` can fire and its ratios are meaningful.
"""

import math
import re
import typing
from pathlib import Path
from typing import Any, Self

import attrs
import msgspec
import yaml

from exporter.errors import ConfigError
from exporter.metrics import catalog

PATH = Path(__file__).with_name("slo.yml")
SEVERITIES = ("critical", "warning", "info")

# Every paging window must notice a total outage within this time; the fastest one within QUICKEST_PAGE_SECONDS.
LATEST_PAGE_SECONDS = 900
QUICKEST_PAGE_SECONDS = 600
# A caller who gives up stops waiting at once, but is counted when the record of the conversation has been read.
HANGUP_KNOWN_SECONDS = 60

# Currencies of which Grafana knows the symbol.
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF", "INR", "BRL", "SEK", "NOK", "DKK", "PLN", "CZK", "KRW", "ZAR")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """Return the seconds of a Prometheus duration with one unit, such as ``5m``. Raises: ValueError."""
    match = re.fullmatch(r"([1-9][0-9]*)([smhd])", duration)
    if match is None:
        raise ValueError(f"{duration!r} is not a duration such as 30s, 5m, 1h or 3d")
    return int(match[1]) * _SECONDS[match[2]]


@attrs.frozen(kw_only=True)
class Response:
    """Objective: share of turns answered within the threshold. ``minimum`` is a number of slow turns."""

    objective: float
    threshold_seconds: float
    minimum: int


@attrs.frozen
class Conversations:
    """Objective: share of conversations that end without an error. ``minimum`` is a number of errors."""

    objective: float
    minimum: int


@attrs.frozen(kw_only=True)
class Window:
    """Fires if a share of the ``budget`` is spent within ``long`` and the burn continues within ``short``."""

    long: str
    short: str
    budget: float


@attrs.frozen(kw_only=True)
class Burn:
    """A burn rate alert, which fires if any of its windows does."""

    severity: str
    lasting: str
    keep_firing: str
    windows: tuple[Window, ...]


@attrs.frozen(kw_only=True)
class Burns:
    """The fast and the slow burn rate alert."""

    fast: Burn
    slow: Burn

    def windows(self) -> tuple[Window, ...]:
        """Return all windows, the most urgent first."""
        return (*self.fast.windows, *self.slow.windows)

    def ranges(self) -> tuple[str, ...]:
        """Return every range over which a ratio is recorded, shortest first."""
        return tuple(sorted({r for w in self.windows() for r in (w.long, w.short)}, key=seconds))


@attrs.frozen
class Lasting:
    """Alert on a state that lasts too long."""

    severity: str
    lasting: str


@attrs.frozen(kw_only=True)
class Waiting:
    """Alert on callers of one agent who wait for an answer."""

    severity: str
    seconds: float
    callers: int
    lasting: str
    keep_firing: str


@attrs.frozen(kw_only=True)
class Delay:
    """Alert on a duration or difference above a number of seconds."""

    severity: str
    seconds: float
    lasting: str


@attrs.frozen(kw_only=True)
class Saturation:
    """Alert on a gauge close to its limit."""

    severity: str
    ratio: float
    lasting: str
    keep_firing: str


@attrs.frozen(kw_only=True)
class Shortfall:
    """Alert on a gauge below another one."""

    severity: str
    ratio: float
    minimum: int
    lasting: str
    keep_firing: str


@attrs.frozen(kw_only=True)
class Share:
    """Alert on a share of events within a window, with a minimum number of events."""

    severity: str
    window: str
    ratio: float
    minimum: int
    lasting: str
    keep_firing: str


@attrs.frozen
class Occurrence:
    """Alert on any event within a window."""

    severity: str
    window: str
    lasting: str


@attrs.frozen(kw_only=True)
class Count:
    """Alert on a number of events within a window."""

    severity: str
    window: str
    minimum: int
    lasting: str
    keep_firing: str


@attrs.frozen(kw_only=True)
class Slowness:
    """Alert on a share of observations above a number of seconds, which is a bucket boundary."""

    severity: str
    window: str
    seconds: float
    ratio: float
    minimum: int
    lasting: str
    keep_firing: str


@attrs.frozen(kw_only=True)
class Alerts:
    """Thresholds of the alerts without an error budget."""

    callers_waiting: Waiting
    callers_giving_up: Share
    error_endings: Share
    tool_failures: Share
    concurrency_at_limit: Saturation
    concurrency_near_limit: Saturation
    exporter_down: Lasting
    credential_refused: Lasting
    upstream_unreachable: Lasting
    discovery_stale: Delay
    feed_errors: Share
    watching_falls_short: Shortfall
    conversations_lost: Share
    requests_waiting: Delay
    event_loop_lag: Delay
    clock_off: Delay
    file_not_read_again: Lasting
    pages_not_committed: Lasting
    checkpoint_failing: Occurrence
    schema_drift: Occurrence
    labels_folded: Occurrence
    # A file of a release without them is still accepted.
    state_unreachable: Lasting = Lasting("critical", "1m")
    shard_unheld: Lasting = Lasting("critical", "1m")
    process_down: Lasting = Lasting("warning", "10m")
    scrape_rule_missing: Occurrence = Occurrence("warning", "15m", "1m")
    leases_lost: Count = Count(severity="warning", window="30m", minimum=3, lasting="1m", keep_firing="5m")
    standby_missing: Occurrence = Occurrence("info", "1d", "15m")
    state_writes_slow: Slowness = Slowness(
        severity="warning", window="5m", seconds=1, ratio=0.1, minimum=3, lasting="5m", keep_firing="5m"
    )


@attrs.frozen
class Links:
    """Targets of links: the root of Grafana, the page of the runbook, the exporter's ``--web.external-url``."""

    grafana: str
    runbook: str
    exporter: str = "http://localhost:10058"


@attrs.frozen(kw_only=True)
class Cost:
    """What a minute of conversation costs, and in which currency; 0 leaves out the panels about cost."""

    price_per_minute: float = 0.0
    currency: str = "USD"


@attrs.frozen(kw_only=True)
class Slo:
    """The content of ``slo.yml``."""

    response: Response
    conversations: Conversations
    period: str
    burn: Burns
    alerts: Alerts
    job: str
    links: Links
    cost: Cost = Cost()

    def factor(self, window: Window) -> float:
        """Return the burn rate at which ``window`` spends its share; 1 spends the budget exactly in the period."""
        return round(window.budget * seconds(self.period) / seconds(window.long), 6)

    def notices_after(self, window: Window, objective: float) -> float:
        """Return the seconds of a total outage, at steady traffic, until the long window exceeds its threshold."""
        return self.factor(window) * (1 - objective) * seconds(window.long)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the YAML text. Raises: ConfigError, which names the key."""
        try:
            raw = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            mark = getattr(exc, "problem_mark", None)
            raise ConfigError("slo.yml", f"not YAML, line {mark.line + 1 if mark else '?'}") from exc
        _refuse_unknown_keys(raw, cls, "slo.yml")
        try:
            slo = msgspec.convert(raw, cls)
        except msgspec.ValidationError as exc:
            raise ConfigError("slo.yml", str(exc)) from exc
        _validate(slo)
        return slo


def load(path: Path = PATH) -> Slo:
    """Read a file. Raises: ConfigError if its content is invalid, OSError if it cannot be read."""
    return Slo.parse(path.read_text(encoding="utf-8"))


def _refuse_unknown_keys(raw: Any, cls: Any, where: str) -> None:
    """Refuse keys that an attrs class lacks, which are misspellings; msgspec would ignore them."""
    if isinstance(raw, list):
        for index, element in enumerate(raw):
            _refuse_unknown_keys(element, next(iter(typing.get_args(cls)), cls), f"{where}[{index}]")
    elif isinstance(raw, dict) and attrs.has(cls):
        fields = attrs.fields_dict(cls)
        for key, value in raw.items():
            path = _path(where, str(key))
            if key not in fields:
                raise ConfigError(path, f"unknown; expected one of {', '.join(fields)}")
            _refuse_unknown_keys(value, fields[key].type, path)


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if " " in where else f"{where} {key}"


def _validate(slo: Slo) -> None:
    _check_values(slo, "slo.yml")
    _check_boundary("response.threshold_seconds", slo.response.threshold_seconds, catalog.RESPONSE)
    _check_boundary("alerts.state_writes_slow.seconds", slo.alerts.state_writes_slow.seconds, catalog.STATE_WRITE)
    for speed in ("fast", "slow"):
        for index, window in enumerate(getattr(slo.burn, speed).windows):
            where = f"slo.yml burn.{speed}.windows[{index}]"
            if not seconds(window.short) < seconds(window.long) < seconds(slo.period):
                raise ConfigError(where, f"needs short < long < period ({slo.period})")
            factor = slo.factor(window)
            for name in ("response", "conversations"):
                largest = 1 / (1 - getattr(slo, name).objective)
                if factor >= largest:
                    raise ConfigError(
                        where,
                        f"burns {factor:g} times too fast, and {name}.objective allows at most "
                        f"{largest:g}: it could never fire",
                    )
    _check_pages(slo)


def _check_boundary(key: str, value: float, family: catalog.Family) -> None:
    if value not in family.buckets:
        raise ConfigError(
            f"slo.yml {key}",
            f"{value:g} is not a bucket boundary of {family.name}: " + " ".join(f"{b:g}" for b in family.buckets),
        )


def _check_pages(slo: Slo) -> None:
    """Check that a total outage pages soon, and that one cause pages once."""
    for name in ("response", "conversations"):
        objective = getattr(slo, name).objective
        for speed in ("fast", "slow"):
            burn: Burn = getattr(slo.burn, speed)
            if speed == "slow" and burn.severity != "critical":
                continue
            for index, window in enumerate(burn.windows):
                after = slo.notices_after(window, objective)
                if after > LATEST_PAGE_SECONDS:
                    raise ConfigError(
                        f"slo.yml burn.{speed}.windows[{index}]",
                        f"notices a total outage after {after / 60:.1f} minutes (factor x {name} budget x long), "
                        f"and a page must come within {LATEST_PAGE_SECONDS // 60}: budget may be at most "
                        f"{_at_most(window.budget * LATEST_PAGE_SECONDS / after):g}",
                    )
        soonest = min(slo.notices_after(window, objective) for window in slo.burn.fast.windows)
        soonest += seconds(slo.burn.fast.lasting)
        if soonest > QUICKEST_PAGE_SECONDS:
            raise ConfigError(
                "slo.yml burn.fast",
                f"pages {soonest / 60:.1f} minutes after a total outage ({name}): one of its windows must do so "
                f"within {QUICKEST_PAGE_SECONDS // 60}",
            )
    fast, waiting = slo.burn.fast, slo.alerts.callers_waiting
    needed = (
        seconds(fast.keep_firing) + max(seconds(window.short) for window in fast.windows) + HANGUP_KNOWN_SECONDS
    )
    if waiting.severity == fast.severity and seconds(waiting.keep_firing) < needed:
        raise ConfigError(
            "slo.yml alerts.callers_waiting.keep_firing",
            f"{waiting.keep_firing} ends before burn.fast does (short + keep_firing + "
            f"{HANGUP_KNOWN_SECONDS} s until a hang-up is known: {needed} s), which would "
            "notify of the same cause once more",
        )


def _at_most(share: float) -> float:
    """Round down to two digits, so that the value that a message recommends is accepted."""
    scale = 10.0 ** (1 - math.floor(math.log10(share)))
    return math.floor(share * scale) / scale


def _check_values(value: Any, where: str) -> None:
    """Check values by the names of their keys: durations parse, shares are in (0, 1), counts start at 1."""
    for field in attrs.fields(type(value)):
        inner, path = getattr(value, field.name), _path(where, field.name)
        if attrs.has(type(inner)):
            _check_values(inner, path)
        elif isinstance(inner, tuple):
            if not inner:
                raise ConfigError(path, "must not be empty")
            for index, element in enumerate(inner):
                _check_values(element, f"{path}[{index}]")
        elif field.name in ("long", "short", "window", "period", "lasting", "keep_firing"):
            try:
                seconds(inner)
            except ValueError as exc:
                raise ConfigError(path, str(exc)) from exc
        elif field.name == "severity":
            if inner not in SEVERITIES:
                raise ConfigError(path, f"{inner!r} is not one of {', '.join(SEVERITIES)}")
        elif field.name in ("objective", "budget"):
            if not 0 < inner < 1:
                raise ConfigError(path, f"{inner:g} is not between 0 and 1")
        elif field.name == "ratio":
            if not 0 < inner <= 1:
                raise ConfigError(path, f"{inner:g} is not a share above 0, at most 1")
        elif field.name == "currency":
            if inner not in CURRENCIES:
                raise ConfigError(path, f"{inner!r} is not one of {', '.join(CURRENCIES)}")
        elif isinstance(inner, int | float):
            if field.name == "price_per_minute" and inner == 0:
                continue
            if not 0 < inner < math.inf:
                raise ConfigError(path, f"{inner:g} is not above 0")
        elif not re.fullmatch(r"[\x21-\x7e]+", inner) or set(inner) & set("\"'{}"):
            raise ConfigError(path, "must be plain text without spaces, quotes or braces")
