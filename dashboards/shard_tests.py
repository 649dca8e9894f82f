"""Pure: generates promtool unit tests of the rules with shards: they are added up, and a take-over fires nothing.

The rules of `dashboards.rule_tests` hold here too. Series of shards are as the scrape rule leaves them; those of a
process have its name. Process ``a`` holds shard 0 first, ``c`` shard 1 always, and ``b`` stands by.
"""

from collections.abc import Iterable

from exporter.metrics import catalog as c

from . import promql
from .alerts import alerts
from .rule_tests import AGENT, JOB, WHO, Case, Expected, duration, humanized, minutes_of, percent
from .slo import Slo

_A, _B, _C = (f'job="{JOB}",instance="{name}:10058"' for name in "abc")
_ZERO, _ONE = (f'job="{JOB}",instance="shard-{n}",shard="{n}"' for n in (0, 1))
_BOTH = (_ZERO, _ONE)
# Minutes. Long enough that nothing is still settling, and for a process to return after a take-over.
_BEFORE, _AWAY, _AFTER = 100, 2, 100
_LENGTH = _BEFORE + _AWAY + _AFTER


def cases(slo: Slo) -> tuple[Case, ...]:
    """Return all cases with shards."""
    return (
        *_take_over(slo),
        *_sums(slo),
        *_waiting(slo),
        *_searching(slo),
        *_burning(slo),
        *_processes(slo),
        *_engine(slo),
        *_rule(slo),
        *_losses(slo),
        *_standbys(slo),
        *_writes(slo),
    )


def _constant(value: float) -> str:
    return f"{value:g}x{_LENGTH}"


def _until(value: str, minutes: int, after: str = "") -> str:
    """``value`` for some minutes, then nothing, or ``after``."""
    return f"{value}x{minutes - 1} {after or 'stale'}"


def _rising(each: float, gap: bool = False) -> str:
    """A counter; with ``gap`` missing for two scrapes around the take-over."""
    if not gap:
        return f"0+{each:g}x{_LENGTH}"
    last = _BEFORE - 1
    return f"0+{each:g}x{last} stale _ {each * (last + 3):g}+{each:g}x{_AFTER}"


def _gap(value: float) -> str:
    """A gauge of shard 0, missing for two scrapes around the take-over."""
    return f"{value:g}x{_BEFORE - 1} stale _ {value:g}x{_AFTER}"


def _state(counts: dict[str, str], processes: Iterable[str] = (_A, _B, _C)) -> dict[str, str]:
    """What each process says of the shards."""
    return {
        f'{c.SHARDS.name}{{{of},state="{state}"}}': values for of in processes for state, values in counts.items()
    }


def _take_over(slo: Slo) -> tuple[Case, ...]:
    """Shard 0 goes from one process to another, which fires no alert at all."""
    le = promql.bound(slo.response.threshold_seconds)
    gone = f"1x{_BEFORE - 1} 0x{_AWAY - 1} 1x{_AFTER}"
    back = f"x{_BEFORE - 1} stale _"
    series = {
        **{f"up{{{of}}}".replace(JOB, slo.job): gone if of == _A else _constant(1) for of in (_A, _B, _C)},
        f"{c.SHARD_HELD.name}{{{_A}}}": f"1{back} 0x{_AFTER}",
        f"{c.SHARD_HELD.name}{{{_B}}}": f"0x{_BEFORE} 1x{_AFTER}",
        f"{c.SHARD_HELD.name}{{{_C}}}": _constant(1),
        f"{c.SHARD_EPOCH.name}{{{_ZERO}}}": f"3{back} 4x{_AFTER}",
        f"{c.SHARD_EPOCH.name}{{{_ONE}}}": _constant(1),
        **_state(
            {
                "held": f"2x{_BEFORE - 1} 1 2x{_AFTER}",
                "unheld": f"0x{_BEFORE - 1} 1 0x{_AFTER}",
                "draining": _constant(0),
            },
            (_B, _C),
        ),
        f'{c.LEASE_LOSSES.sample_name}{{{_A},reason="taken"}}': f"0x{_BEFORE - 1} stale _ 1x{_AFTER}",
        f"{c.UP.name}{{{_A}}}": f"1x{_BEFORE - 1} stale",
        f"{c.UP.name}{{{_B}}}": f"_x{_BEFORE + 1} 1x{_AFTER}",
        f"{c.UP.name}{{{_C}}}": _constant(1),
        **{f'{c.WATCHERS.name}{{{of},state="live"}}': _constant(10) for of in (_C,)},
        f'{c.WATCHERS.name}{{{_A},state="live"}}': f"10x{_BEFORE - 1} stale",
        f'{c.WATCHERS.name}{{{_B},state="live"}}': f"_x{_BEFORE + 1} 10x{_AFTER}",
        # Discovery is with another process.
        f"{c.DISCOVERY_LAST_SUCCESS.name}{{{_C}}}": f"0+60x{_LENGTH}",
        f'{c.PROJECT_ACTIVE.name}{{{_C},project="main"}}': _constant(20),
        f'{c.DISCOVERED.name}{{{_C},project="main"}}': _constant(20),
    }
    for target in _BOTH:
        lost = target == _ZERO
        ten, whole = (_gap(10) if lost else _constant(10)), _rising(100, gap=lost)
        series |= {
            f"{c.CONVERSATIONS_LIVE.name}{{{target},{AGENT}}}": ten,
            f"{c.CONVERSATIONS.sample_name}{{{target},{AGENT}}}": whole,
            f'{c.CONVERSATIONS_ENDED.sample_name}{{{target},{AGENT},ended_by="user"}}': whole,
            f'{c.CONVERSATION_ERRORS.sample_name}{{{target},{AGENT},reason="error"}}': _rising(1, gap=lost),
            f'{c.RESPONSE.name}_bucket{{{target},{AGENT},le="{le}"}}': whole,
            f"{c.RESPONSE.name}_count{{{target},{AGENT}}}": whole,
            f'{c.CONVERSATIONS_LOST.sample_name}{{{target},reason="never_live"}}': _gap(0)
            if lost
            else _constant(0),
        }
    moments = (_BEFORE - 5, *range(_BEFORE, _BEFORE + 6), _BEFORE + 15, _BEFORE + 60)
    first, *others = (alert.name for alert in alerts(slo) if alert.name != "PhonicWatchdog")
    return (
        Case(
            alert=first,
            title="silent about a standby, and while a standby takes over a shard; and so are all others",
            series=series,
            expected=tuple(Expected(minutes=m) for m in moments),
            silent=tuple(others),
        ),
    )


def _sums(slo: Slo) -> tuple[Case, ...]:
    errors, lost, short = slo.alerts.error_endings, slo.alerts.conversations_lost, slo.alerts.watching_falls_short
    start = minutes_of(errors.window)
    look = start + start // 2 + minutes_of(errors.lasting)
    # Too few on each shard, enough on both.
    some, few = errors.minimum - 1, (errors.minimum - 1) // 2

    def bursts(count: int) -> dict[str, str]:
        return {
            name: f"0x{start} {count}x1000"
            for of in _BOTH
            for name in (
                f'{c.CONVERSATION_ERRORS.sample_name}{{{of},{AGENT},reason="error"}}',
                f'{c.CONVERSATIONS_ENDED.sample_name}{{{of},{AGENT},ended_by="error"}}',
            )
        }

    window = minutes_of(lost.window)
    settled = 2 * window + minutes_of(lost.lasting)
    seen = round(10 / lost.ratio)
    losing = {
        name: values
        for of in _BOTH
        for name, values in (
            (f'{c.CONVERSATIONS_LOST.sample_name}{{{of},reason="never_live"}}', f"0+9x{3 * window}"),
            (f"{c.CONVERSATIONS.sample_name}{{{of},{AGENT}}}", f"0+{seen}x{3 * window}"),
        )
    }
    half = round(4 * short.minimum / short.ratio)
    lasting = minutes_of(short.lasting)
    projects = {
        f'{c.PROJECT_ACTIVE.name}{{{_C},project="main"}}': _constant(2 * half),
        f'{c.DISCOVERED.name}{{{_C},project="main"}}': _constant(2 * half),
        f"{c.CONVERSATIONS_LIVE.name}{{{_ZERO},{AGENT}}}": f"{half}x10 stale",
        f"{c.CONVERSATIONS_LIVE.name}{{{_ONE},{AGENT}}}": _constant(half),
    }
    return (
        Case(
            alert="PhonicErrorEndings",
            title="too few on each shard are enough on both",
            series=bursts(some),
            expected=(Expected(minutes=look, labels=WHO, value=percent(1)),),
        ),
        Case(
            alert="PhonicErrorEndings",
            title="too few on both shards",
            series=bursts(few),
            expected=(Expected(minutes=look),),
        ),
        Case(
            alert="PhonicConversationsLost",
            title="silent just below the share, of both shards",
            series=losing,
            expected=(Expected(minutes=settled),),
        ),
        Case(
            alert="PhonicWatchingFallsShort",
            title="silent while each shard watches its part, fires when one shard is gone",
            series=projects,
            expected=(
                Expected(minutes=9),
                Expected(minutes=12 + lasting, labels={"job": JOB, "project": "main"}, value=str(half)),
            ),
        ),
    )


def _waiting(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.callers_waiting
    long = 2 * int(of.seconds)
    targets = [_BOTH[n % 2] for n in range(of.callers)]
    info = {
        f'{c.LIVE_INFO.name}{{{target},conversation_id="conv_{n}",{AGENT},origin="direct"}}': _constant(1)
        for n, target in enumerate(targets)
    }
    since = {
        f'{c.LIVE_WAITING_SINCE.name}{{{target},conversation_id="conv_{n}"}}': f"{-long}+60x{_LENGTH}"
        for n, target in enumerate(targets)
    }
    first, *_ = info
    moved = {
        first: f"1x{_BEFORE - 1} stale _ 1x{_AFTER}",
        next(iter(since)): f"{-long}+60x{_BEFORE - 1} stale _ {60 * (_BEFORE + 2) - long}+60x{_AFTER}",
    }

    def fires(minutes: int) -> Expected:
        return Expected(minutes=minutes, labels=WHO, value=str(of.callers))

    return (
        Case(
            alert="PhonicCallersWaiting",
            title="callers of all shards count, and the alert outlasts a take-over",
            series={**info, **since, **moved},
            expected=(
                fires(10),
                fires(_BEFORE - 1),
                fires(_BEFORE + 2 + minutes_of(of.lasting)),
            ),
        ),
        Case(
            alert="PhonicCallersWaiting",
            title="a call that two processes describe differently for a moment is one caller of each agent",
            series={**info, **since, first.replace("front desk", "none"): _constant(1)},
            expected=(fires(10),),
        ),
    )


def _searching(slo: Slo) -> tuple[Case, ...]:
    """Two processes that share the projects: each looks through its own."""
    of = slo.alerts.discovery_stale
    lasting = minutes_of(of.lasting)
    stale = 2 * int(of.seconds)
    last, found = c.DISCOVERY_LAST_SUCCESS.name, c.DISCOVERED.name
    fresh = {f"{last}{{{_A}}}": f"0+60x{_LENGTH}"}
    old = {f"{last}{{{_C}}}": f"{-stale}+60x{_LENGTH}"}
    both = {**fresh, **old, f'{found}{{{_A},project="main"}}': _constant(5)}
    alert = "PhonicDiscoveryStale"
    return (
        Case(
            alert=alert,
            title="fires for the project of the process that does not look, though another one does",
            series={**both, f'{found}{{{_C},project="sales"}}': _constant(5)},
            expected=(Expected(minutes=10 + lasting, labels={"job": JOB}, value=duration(stale)),),
        ),
        Case(
            alert=alert,
            title="silent about a process that looks through no project",
            series=both,
            expected=(Expected(minutes=10 + lasting),),
        ),
        Case(
            alert=alert,
            title="silent while one of the processes that look through a project does so in time",
            series={**both, f'{found}{{{_C},project="main"}}': _constant(5)},
            expected=(Expected(minutes=10 + lasting),),
        ),
    )


def _burning(slo: Slo) -> tuple[Case, ...]:
    """Slow turns that are too few on each shard."""
    settled = 2 * min(minutes_of(w.long) for w in slo.burn.fast.windows)
    le = promql.bound(slo.response.threshold_seconds)

    def turns(minimum: float) -> dict[str, str]:
        each = minimum / min(minutes_of(w.long) for w in slo.burn.fast.windows)
        return {
            name: values
            for of in _BOTH
            for name, values in (
                (f'{c.RESPONSE.name}_bucket{{{of},{AGENT},le="{le}"}}', f"0x{settled}"),
                (f"{c.RESPONSE.name}_count{{{of},{AGENT}}}", f"0+{each:g}x{settled}"),
            )
        }

    def case(title: str, minimum: float, expected: Expected) -> Case:
        return Case(alert="PhonicResponseBudgetBurnFast", title=title, series=turns(minimum), expected=(expected,))

    return (
        case(
            "too few slow turns on each shard are enough on both",
            0.8 * slo.response.minimum,
            Expected(minutes=settled, labels=WHO, value="100%"),
        ),
        case("too few slow turns on both shards", 0.1 * slo.response.minimum, Expected(minutes=settled)),
    )


def _processes(slo: Slo) -> tuple[Case, ...]:
    """One of two processes is down, or both."""
    down, one = minutes_of(slo.alerts.exporter_down.lasting), minutes_of(slo.alerts.process_down.lasting)
    a, b = (f"up{{{of}}}".replace(JOB, slo.job) for of in (_A, _B))
    states = _state({"held": _constant(1), "unheld": _constant(0)}, (_B,))
    states = {name.replace(JOB, slo.job): values for name, values in states.items()}
    away = f"1x5 0x{down + one + 5} 1x30"
    instance = {"job": slo.job, "instance": "a:10058"}
    return (
        Case(
            alert="PhonicExporterDown",
            title="silent when one of two processes is down and the other one knows the shards",
            series={a: away, b: _constant(1), **states},
            expected=tuple(Expected(minutes=m) for m in (6, 6 + down, 7 + down + one)),
        ),
        Case(
            alert="PhonicExporterDown",
            title="fires when all processes are down",
            series={a: f"1x5 0x{down + 20}", **dict.fromkeys(states, "0x5 stale")},
            expected=(Expected(minutes=7 + down, labels=instance, value="0"),),
        ),
        Case(
            alert="PhonicProcessDown",
            title="fires when one of two processes is down for long, and recovers",
            series={a: away, b: _constant(1), **states},
            expected=(
                Expected(minutes=5 + one // 2),
                Expected(minutes=7 + one, labels=instance, value="0"),
                Expected(minutes=10 + down + one + 5),
            ),
        ),
        Case(
            alert="PhonicProcessDown",
            title="silent about a process without shards",
            series={a: away},
            expected=(Expected(minutes=7 + one),),
        ),
    )


def _engine(slo: Slo) -> tuple[Case, ...]:
    """What the processes know from PostgreSQL."""
    unheld, silent = minutes_of(slo.alerts.shard_unheld.lasting), minutes_of(slo.alerts.state_unreachable.lasting)
    held = {f"{c.SHARD_HELD.name}{{{of}}}": _constant(1) for of in (_A, _B)}
    job = {"job": JOB}

    def counts(values: str, processes: Iterable[str] = (_A, _B)) -> dict[str, str]:
        return _state({"unheld": values}, processes)

    return (
        Case(
            alert="PhonicShardUnheld",
            title="fires when nobody takes a shard, and recovers",
            series=counts(f"0x5 2x{unheld + 5} 0x30"),
            expected=(
                Expected(minutes=5),
                Expected(minutes=7 + unheld, labels={**job, "state": "unheld"}, value="2"),
                Expected(minutes=5 + unheld + 5 + 3),
            ),
        ),
        Case(
            alert="PhonicShardUnheld",
            title="silent where another process says that it is held",
            series={**counts(_constant(1), (_A,)), **counts(_constant(0), (_B,))},
            expected=(Expected(minutes=20 + unheld),),
        ),
        Case(
            alert="PhonicStateUnreachable",
            title="fires when no process has an answer, and recovers",
            series={**held, **counts(f"0x5 stale _x{silent + 4} 0x30")},
            expected=(
                Expected(minutes=5),
                Expected(minutes=8 + silent, labels=job, value="1"),
                Expected(minutes=5 + silent + 9),
            ),
        ),
        Case(
            alert="PhonicStateUnreachable",
            title="silent while one process has answers",
            series={**held, **counts(_constant(0), (_B,))},
            expected=(Expected(minutes=20 + silent),),
        ),
        Case(
            alert="PhonicStateUnreachable",
            title="silent where the state is a file",
            series={f"{c.PAGES_COMMITTED.name}{{{_A}}}": _constant(1)},
            expected=(Expected(minutes=20 + silent),),
        ),
    )


def _rule(slo: Slo) -> tuple[Case, ...]:
    """The scrape rule is missing, incomplete, or there."""
    of = slo.alerts.scrape_rule_missing
    window, lasting = minutes_of(of.window), minutes_of(of.lasting)
    held = {f"{c.SHARD_HELD.name}{{{target}}}": _constant(1) for target in (_A, _B)}
    labels = {"job": JOB, "shard": "0"}
    epoch = c.SHARD_EPOCH.name
    there = f'{epoch}{{{_A},shard="0"}}'
    pods = {name.replace("}", ',pod="a-0"}'): values for name, values in held.items() if _A in name}
    return (
        Case(
            alert="PhonicScrapeRuleMissing",
            title="fires before any take-over, and recovers with the rule",
            series={**held, there: f"1x{lasting + 9} stale", f"{epoch}{{{_ZERO}}}": f"_x{lasting + 10} 1x60"},
            expected=(
                Expected(minutes=lasting + 5, labels=labels, value="1"),
                Expected(minutes=lasting + 11 + window + 2),
            ),
        ),
        Case(
            alert="PhonicScrapeRuleMissing",
            title="fires when series of a shard have had two names",
            series={
                f'{epoch}{{job="{JOB}",instance="one",shard="0"}}': "1x19 stale",
                f'{epoch}{{job="{JOB}",instance="two",shard="0"}}': "_x20 2x60",
            },
            expected=(
                Expected(minutes=15),
                Expected(minutes=22 + lasting, labels=labels, value="2"),
                Expected(minutes=22 + window + lasting),
            ),
        ),
        Case(
            alert="PhonicScrapeRuleMissing",
            title="fires when only the label pod is that of a process",
            series={**pods, f'{epoch}{{{_ZERO},pod="a-0"}}': _constant(1)},
            expected=(Expected(minutes=lasting + 5, labels=labels, value="1"),),
        ),
        Case(
            alert="PhonicScrapeRuleMissing",
            title="silent when both labels are those of the shard",
            series={**pods, f'{epoch}{{{_ZERO},pod="shard-0"}}': _constant(1)},
            expected=(Expected(minutes=lasting + 5),),
        ),
    )


def _losses(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.leases_lost
    window, lasting, keep = (minutes_of(each) for each in (of.window, of.lasting, of.keep_firing))
    storm = 2 * window
    each = of.minimum / window

    def case(title: str, values: str, *expected: Expected) -> Case:
        """Two processes that lose leases in the same way."""
        series = {f'{c.LEASE_LOSSES.sample_name}{{{target},reason="expired"}}': values for target in (_A, _B)}
        return Case(alert="PhonicLeasesLost", title=title, series=series, expected=expected)

    # Each alone loses fewer than the minimum.
    return (
        case(
            "fires when processes together lose many, and recovers",
            f"1+{0.8 * each:g}x{storm} {1 + 0.8 * each * storm:g}x{2 * window}",
            Expected(minutes=storm, labels={"job": JOB}, value=humanized(1.6 * of.minimum)),
            Expected(minutes=storm + window + lasting + keep + 4),
        ),
        case("silent about one here and there", f"1+{0.4 * each:g}x{storm}", Expected(minutes=storm)),
    )


def _standbys(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.standby_missing
    lasting = minutes_of(of.lasting)
    a, b = (f"{c.SHARD_HELD.name}{{{target}}}" for target in (_A, _B))

    def case(title: str, standby: str, *expected: Expected) -> Case:
        series = {a: _constant(1), b: standby}
        return Case(alert="PhonicStandbyMissing", title=title, series=series, expected=expected)

    gone = 30
    return (
        case(
            "fires when the last standby is gone, and recovers when one is there",
            f"0x{gone - 1} stale _x{lasting + 10} 0x60",
            Expected(minutes=gone + lasting // 2),
            Expected(minutes=gone + lasting + 3, labels={"job": JOB}, value="0"),
            Expected(minutes=gone + lasting + 15),
        ),
        case("silent where there never was one", _constant(1), Expected(minutes=100)),
        case(
            "silent while a process that lost its shard starts again",
            f"0x{gone - 1} 1x{lasting // 2} 0x60",
            Expected(minutes=gone + lasting // 2 - 1),
            Expected(minutes=gone + lasting + 5),
        ),
    )


def _writes(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.state_writes_slow
    window, lasting = minutes_of(of.window), minutes_of(of.lasting)
    name, le = c.STATE_WRITE.name, promql.bound(of.seconds)
    minute = 60
    busy = window + lasting + 5

    def case(title: str, every: float, slow: float, *expected: Expected) -> Case:
        """``every`` writes a minute, of which ``slow`` are, and later none."""
        soon = every - slow
        series = {
            f"{name}_count{{{_A}}}": f"0+{every:g}x{4 * busy}",
            f'{name}_bucket{{{_A},le="{le}"}}': f"0+{soon:g}x{busy} {soon * busy + every:g}+{every:g}x{3 * busy}",
        }
        return Case(alert="PhonicStateWritesSlow", title=title, series=series, expected=expected)

    fires = Expected(minutes=busy, labels={"job": JOB}, value=percent(0.5))
    over = Expected(minutes=busy + window + minutes_of(of.keep_firing) + 5)
    return (
        case("fires while many writes are slow, and recovers", minute, minute / 2, fires, over),
        case("silent just below its share", minute, 0.99 * of.ratio * minute, Expected(minutes=busy)),
        case("silent about a slow write now and then", 0.5 / window, 0.5 / window, Expected(minutes=busy)),
    )
