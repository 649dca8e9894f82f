"""Pure: generates promtool unit tests of the rules with two workspaces: what troubles one is told of it alone.

The rules of `dashboards.rule_tests` hold here too. Both workspaces are of one process, and have a project and an
agent of the same names. ``acme`` is in trouble, and all is well in ``globex``, which has more of everything.
"""

from exporter.metrics import catalog as c

from . import promql
from .alerts import CLOCK_OFFSET, CREDENTIAL_REFUSED
from .rule_tests import AGENT, JOB, WHO, Case, Expected, duration, minutes_of, percent
from .slo import Slo

_ACME, _GLOBEX = (f'job="{JOB}",instance="a:10058",workspace="{name}"' for name in ("acme", "globex"))
_BOTH = (_ACME, _GLOBEX)
_PROCESS = f'job="{JOB}",instance="a:10058"'
_OF_ACME = {**WHO, "workspace": "acme"}
_LENGTH = 200  # minutes


def cases(slo: Slo) -> tuple[Case, ...]:
    """Return all cases with workspaces."""
    return (
        *_waiting(slo),
        *_shares(slo),
        *_burning(slo),
        *_projects(slo),
        *_upstream(slo),
        *_feeds(slo),
    )


def _constant(value: float) -> str:
    return f"{value:g}x{_LENGTH}"


def _waiting(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.callers_waiting
    long = 2 * int(of.seconds)

    def callers(workspace: str, count: int) -> dict[str, str]:
        series = {}
        for number in range(count):
            call = f'conversation_id="conv_{workspace[-4:-1]}_{number}"'
            series[f'{c.LIVE_INFO.name}{{{workspace},{call},{AGENT},origin="direct"}}'] = _constant(1)
            series[f"{c.LIVE_WAITING_SINCE.name}{{{_PROCESS},{call}}}"] = f"{-long}+60x{_LENGTH}"
        return series

    return (
        Case(
            alert="PhonicCallersWaiting",
            title="too few callers of each workspace are not enough, though their agents have one name",
            series={**callers(_ACME, of.callers - 1), **callers(_GLOBEX, of.callers - 1)},
            expected=(Expected(minutes=10),),
        ),
        Case(
            alert="PhonicCallersWaiting",
            title="fires for the workspace whose callers wait",
            series={**callers(_ACME, of.callers), **callers(_GLOBEX, of.callers - 1)},
            expected=(Expected(minutes=10, labels=_OF_ACME, value=str(of.callers)),),
        ),
    )


def _shares(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.error_endings
    start = minutes_of(of.window)
    look = start + start // 2 + minutes_of(of.lasting)

    def errors(workspace: str, count: int, every: int) -> dict[str, str]:
        of = f"{workspace},{AGENT}"
        return {
            f'{c.CONVERSATION_ERRORS.sample_name}{{{of},reason="error"}}': f"0x{start} {count}x1000",
            f'{c.CONVERSATIONS_ENDED.sample_name}{{{of},ended_by="error"}}': f"0x{start} {every}x1000",
        }

    some, few = 4 * of.minimum, of.minimum - 1
    return (
        Case(
            alert="PhonicErrorEndings",
            title="fires for the workspace whose calls fail, however many succeed in the other",
            series={**errors(_ACME, some, some), **errors(_GLOBEX, 0, 10 * some)},
            expected=(Expected(minutes=look, labels=_OF_ACME, value=percent(1)),),
        ),
        Case(
            alert="PhonicErrorEndings",
            title="too few errors in each workspace are not enough",
            series={**errors(_ACME, few, few), **errors(_GLOBEX, few, few)},
            expected=(Expected(minutes=look),),
        ),
    )


def _burning(slo: Slo) -> tuple[Case, ...]:
    """Slow turns, by recorded rates: those of each workspace are recorded."""
    window = min(minutes_of(w.long) for w in slo.burn.fast.windows)
    settled = 2 * window
    le = promql.bound(slo.response.threshold_seconds)

    def turns(workspace: str, each: float, soon: float) -> dict[str, str]:
        return {
            f'{c.RESPONSE.name}_bucket{{{workspace},{AGENT},le="{le}"}}': f"0+{soon:g}x{settled}",
            f"{c.RESPONSE.name}_count{{{workspace},{AGENT}}}": f"0+{each:g}x{settled}",
        }

    enough = 2 * slo.response.minimum / window
    few = 0.6 * slo.response.minimum / settled  # enough if they were added up
    alert = "PhonicResponseBudgetBurnFast"
    return (
        Case(
            alert=alert,
            title="fires for the workspace whose turns are slow, however many are not in the other",
            series={**turns(_ACME, enough, 0), **turns(_GLOBEX, 30 * enough, 30 * enough)},
            expected=(Expected(minutes=settled, labels=_OF_ACME, value="100%"),),
        ),
        Case(
            alert=alert,
            title="too few slow turns in each workspace are not enough",
            series={**turns(_ACME, few, 0), **turns(_GLOBEX, few, 0)},
            expected=(Expected(minutes=settled),),
        ),
    )


def _projects(slo: Slo) -> tuple[Case, ...]:
    short, full = slo.alerts.watching_falls_short, slo.alerts.concurrency_at_limit
    missing = round(4 * short.minimum / short.ratio)
    main = {"job": JOB, "workspace": "acme", "project": "main"}

    def project(workspace: str, active: int, watched: int) -> dict[str, str]:
        return {
            f'{c.PROJECT_ACTIVE.name}{{{workspace},project="main"}}': _constant(active),
            f'{c.DISCOVERED.name}{{{workspace},project="main"}}': _constant(active),
            f"{c.CONVERSATIONS_LIVE.name}{{{workspace},{AGENT}}}": _constant(watched),
        }

    def limits(active: str, limit: str, more: str = "") -> dict[str, str]:
        return {
            f"{active}{{{_ACME}{more}}}": _constant(50),
            f"{limit}{{{_ACME}{more}}}": _constant(50),
            f"{active}{{{_GLOBEX}{more}}}": _constant(50),
            f"{limit}{{{_GLOBEX}{more}}}": _constant(500),
        }

    at = 2 + minutes_of(full.lasting)
    return (
        Case(
            alert="PhonicWatchingFallsShort",
            title="fires for a project of one workspace though that of the other is watched twice over",
            series={**project(_ACME, missing, 0), **project(_GLOBEX, missing, 2 * missing)},
            expected=(Expected(minutes=10 + minutes_of(short.lasting), labels=main, value=str(missing)),),
        ),
        Case(
            alert="PhonicConcurrencyAtLimit",
            title="fires for a project of one workspace, and names it",
            series=limits(c.PROJECT_ACTIVE.name, c.PROJECT_LIMIT.name, ',project="main"'),
            expected=(Expected(minutes=at, labels=main, value="100%"),),
        ),
        Case(
            alert="PhonicConcurrencyAtLimit",
            title="fires for one workspace, and names it",
            series=limits(c.WORKSPACE_ACTIVE.name, c.WORKSPACE_LIMIT.name),
            expected=(Expected(minutes=at, labels={"job": JOB, "workspace": "acme"}, value="100%"),),
        ),
    )


def _upstream(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts
    acme = {"job": JOB, "workspace": "acme"}
    stale, off = 2 * int(of.discovery_stale.seconds), 2 * of.clock_off.seconds
    return (
        Case(
            alert="PhonicCredentialRefused",
            title="fires for the workspace whose key is refused",
            series={
                f"{CREDENTIAL_REFUSED}{{{_ACME}}}": _constant(1),
                f"{CREDENTIAL_REFUSED}{{{_GLOBEX}}}": _constant(0),
            },
            expected=(Expected(minutes=2 + minutes_of(of.credential_refused.lasting), labels=acme, value="1"),),
        ),
        Case(
            alert="PhonicUpstreamUnreachable",
            title="fires for the workspace whose requests get no answer",
            series={f"{c.UP.name}{{{_ACME}}}": _constant(0), f"{c.UP.name}{{{_GLOBEX}}}": _constant(1)},
            expected=(Expected(minutes=2 + minutes_of(of.upstream_unreachable.lasting), labels=acme, value="0"),),
        ),
        Case(
            alert="PhonicDiscoveryStale",
            title="fires for the workspace that is not looked through",
            series={
                f"{c.DISCOVERY_LAST_SUCCESS.name}{{{_ACME}}}": f"{-stale}+60x{_LENGTH}",
                f"{c.DISCOVERY_LAST_SUCCESS.name}{{{_GLOBEX}}}": f"0+60x{_LENGTH}",
                **{f'{c.DISCOVERED.name}{{{each},project="main"}}': _constant(5) for each in _BOTH},
            },
            expected=(
                Expected(minutes=10 + minutes_of(of.discovery_stale.lasting), labels=acme, value=duration(stale)),
            ),
        ),
        Case(
            alert="PhonicClockOff",
            title="fires once for a clock that all workspaces see wrong",
            series={f"{CLOCK_OFFSET}{{{each}}}": _constant(off) for each in _BOTH},
            expected=(
                Expected(minutes=2 + minutes_of(of.clock_off.lasting), labels={"job": JOB}, value=duration(off)),
            ),
        ),
    )


def _feeds(slo: Slo) -> tuple[Case, ...]:
    """Errors of feeds are those of the process, and so are compared with the feeds of all its workspaces."""
    of = slo.alerts.feed_errors
    window = minutes_of(of.window)
    enough = -(-4 * of.minimum // window) + 1  # per minute
    look = 11 + window + minutes_of(of.lasting)

    def case(title: str, watched: int, expected: Expected) -> Case:
        return Case(
            alert="PhonicFeedErrors",
            title=title,
            series={
                f'{c.FEED_ERRORS.sample_name}{{{_PROCESS},reason="connect"}}': f"0x10 {enough}+{enough}x100",
                **{f'{c.WATCHERS.name}{{{each},state="live"}}': _constant(watched) for each in _BOTH},
            },
            expected=(expected,),
        )

    few = round(2 * of.minimum / of.ratio)
    return (
        case(
            "fires when many of the feeds of all workspaces break",
            few,
            Expected(minutes=look, labels={"job": JOB}, value=f"{enough * window:g}"),
        ),
        case("silent when they are few of all workspaces", 2 * few, Expected(minutes=look)),
    )
