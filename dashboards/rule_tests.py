"""Pure: generates promtool unit tests of the rules from the same ``slo.yml`` as the rules.

Every alert has cases in which it fires, stays silent at its threshold, and recovers. A ratio also has a case with
too few events, and a burn rate one in which only one of its two windows burns.

Rules for this file: tests must pass with the half-open ranges of Prometheus 3 and the closed ones of Prometheus 2.
So rates are constant around every moment that is checked, or samples lie between the evaluations; samples are less
than Prometheus' lookback of five minutes apart; groups of rules are evaluated in order. Every number comes from
``slo.yml``.
"""

import re
from collections.abc import Mapping
from typing import Any

import attrs

from exporter.metrics import catalog as c

from . import promql
from .alerts import (
    CLOCK_OFFSET,
    CREDENTIAL_REFUSED,
    EVENT_LOOP_LAG,
    GROUPS,
    PAGES_COMMITTED,
    REQUESTS_WAITING_SINCE,
    Alert,
    alerts,
)
from .rules import Indicator, indicators, recording
from .slo import QUICKEST_PAGE_SECONDS, Burn, Lasting, Occurrence, Saturation, Slo, seconds

JOB = "phonic-exporter"
_TARGET = f'job="{JOB}",instance="a:10058"'
# The name of this agent must be escaped in a link.
AGENT = 'project="main",agent="front desk"'
WHO = {"job": JOB, "project": "main", "agent": "front desk"}
_FLAT = 10_000
# Test files whose alerts use recorded rates.
_RECORDED = ("replicas", "shards", "workspaces", "budgets-fast", "budgets-slow", "pages")
# Minutes. Prometheus looks back five, Prometheus 3 a little less.
_LONGEST_STEP = 4


@attrs.frozen(kw_only=True)
class Expected:
    """What the alert does at ``minutes`` and ``seconds``: it fires with these labels and ``value`` in its text.

    Without a value it is silent.
    """

    minutes: int = 0
    seconds: int = 0
    labels: dict[str, str] = attrs.field(factory=dict)
    value: str = ""

    @property
    def time(self) -> str:
        """The time in promtool's notation."""
        return f"{self.minutes}m{self.seconds}s" if self.seconds else f"{self.minutes}m"


@attrs.frozen(kw_only=True)
class Case:
    """A test case: series in promtool's notation, and the expected alerts.

    The series have one sample every ``step`` minutes, or every ``interval``. ``silent``: other alerts, which are
    silent at all moments.
    """

    alert: str
    title: str
    series: dict[str, str]
    expected: tuple[Expected, ...]
    step: int = 1
    interval: str = ""
    silent: tuple[str, ...] = ()


def rule_tests(slo: Slo, more: Mapping[str, tuple[Case, ...]] | None = None) -> dict[str, dict[str, Any]]:
    """Return the test files by stem, with ``more`` cases. Those of a file share the evaluation interval."""
    known = {alert.name: alert for alert in alerts(slo)}
    files = {
        "waiting": _waiting(slo),
        "callers": (*_shares(slo), *_concurrency(slo)),
        "replicas": _replicas(slo),
        "budgets-fast": _burns(slo, "Fast", slo.burn.fast),
        "budgets-slow": _burns(slo, "Slow", slo.burn.slow),
        "pages": _pages(slo),
        "exporter": _exporter(slo),
        **(more or {}),
    }
    return {
        stem: {
            "rule_files": ["../recording.yml", "../alerts.yml"] if stem in _RECORDED else ["../alerts.yml"],
            "evaluation_interval": _evaluation(stem, cases[0].step),
            "group_eval_order": [*(group["name"] for group in recording(slo)["groups"]), *GROUPS],
            "tests": [_test(case, known[case.alert], slo) for case in cases],
        }
        for stem, cases in files.items()
    }


def _evaluation(stem: str, step: int) -> str:
    """Return the evaluation interval: that of the samples, or of the shipped group for tests by the second."""
    return GROUPS["phonic-waiting"] if stem == "waiting" else f"{step}m"


def _test(case: Case, alert: Alert, slo: Slo) -> dict[str, Any]:
    return {
        "name": f"{case.alert}: {case.title}",
        "interval": case.interval or f"{case.step}m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {
                "eval_time": e.time,
                "alertname": case.alert,
                "exp_alerts": [
                    {
                        "exp_labels": {"severity": alert.severity, **e.labels},
                        "exp_annotations": {
                            key: _rendered(text, e) for key, text in alert.annotations(slo).items()
                        },
                    }
                ]
                if e.value
                else [],
            }
            for e in case.expected
        ]
        + [
            {"eval_time": e.time, "alertname": other, "exp_alerts": []}
            for other in case.silent
            for e in case.expected
        ],
    }


def _rendered(template: str, e: Expected) -> str:
    """Expand the few template forms that alerts use, as Prometheus does."""
    text = re.sub(
        r"{{ if \$labels\.(\w+) }}(.*?)(?:{{ else }}(.*?))?{{ end }}",
        lambda m: m[2] if e.labels.get(m[1]) else m[3] or "",
        template,
    )
    text = re.sub(r"{{ \$labels\.(\w+) \| urlquery }}", lambda m: e.labels.get(m[1], "").replace(" ", "+"), text)
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda m: e.labels.get(m[1], ""), text)
    return re.sub(r"{{ \$value[^}]*}}", e.value, text)


def percent(ratio: float) -> str:
    return f"{100 * ratio:.4g}%"


def minutes_of(duration: str) -> int:
    """Return a duration in whole minutes, rounded up."""
    return -(-seconds(duration) // 60)


def _waiting(slo: Slo) -> tuple[Case, ...]:
    """Cases with scrapes every few seconds, starting at any second.

    Series have a value for each second: those that a scrape every ``every`` seconds from ``phase`` on sees.
    """
    of = slo.alerts.callers_waiting
    many = of.callers
    lasting, keep = seconds(of.lasting), seconds(of.keep_firing)
    start = 120
    short, long = 0.6 * of.seconds, 2 * of.seconds

    def callers(number: int, wait: float, until: int, every: int, phase: int) -> dict[str, str]:
        """``number`` callers who at each scrape have waited ``wait`` seconds, and none after ``until``."""
        ids = [f'conversation_id="conv_{n}"' for n in range(number)]
        scrapes = range(phase, until, every)
        gap = f" _x{every - 1} " if every > 1 else " "
        info = f"_x{phase} " * bool(phase) + gap.join("1" for _ in scrapes) + f"{gap}stale"
        since = f"_x{phase} " * bool(phase) + gap.join(f"{t - wait:g}" for t in scrapes) + f"{gap}stale"
        return {f'{c.LIVE_INFO.name}{{{_TARGET},{i},{AGENT},origin="direct"}}': info for i in ids} | {
            f"{c.LIVE_WAITING_SINCE.name}{{{_TARGET},{i}}}": since for i in ids
        }

    def case(title: str, series: dict[str, str], *expected: Expected) -> Case:
        return Case(alert="PhonicCallersWaiting", title=title, series=series, expected=expected, interval="1s")

    def at(moment: float, value: int = 0) -> Expected:
        """Expect this at the first evaluation at or after ``moment``."""
        step = seconds(GROUPS["phonic-waiting"])
        minutes, rest = divmod(-(-int(moment) // step) * step, 60)
        return Expected(minutes=minutes, seconds=rest, labels=WHO if value else {}, value=str(value or ""))

    cases = []
    for every in (5, 15, 60):
        for phase in (0, 1, every // 2, every - 1):
            over = start + 4 * every
            fires = phase + max(every, lasting) + every
            scraped = f"scraped every {every} s from second {phase}"
            cases += [
                case(
                    f"silent while callers are soon answered, {scraped}",
                    callers(many + 1, short, over, every, phase),
                    *(at(moment) for moment in range(fires, over, 20)),
                ),
                case(
                    f"fires while callers wait, {scraped}",
                    callers(many, long, over, every, phase),
                    at(phase),
                    at(fires + every, many),
                    # One phase is enough for the long wait that follows.
                    *([at(over + 2 * every + keep + 10)] if phase == 1 else []),
                ),
            ]
    return (
        *cases,
        case(
            "silent while every wait is exactly as long as allowed",
            callers(many, of.seconds, start, 5, 2),
            at(start / 2),
            at(start - 10),
        ),
        case(
            "silent when too few callers wait",
            callers(many - 1, long, start, 5, 2),
            at(start / 2),
            at(start - 10),
        ),
    )


def _hangups(slo: Slo) -> tuple[str, str]:
    """The series of all hang-ups after a user's turn, and of those that followed soon."""
    name, le = c.HANGUP_WAIT.name, promql.bound(slo.response.threshold_seconds)
    return f"{name}_count{{{_TARGET},{AGENT}}}", f'{name}_bucket{{{_TARGET},{AGENT},le="{le}"}}'


def _shares(slo: Slo) -> tuple[Case, ...]:
    """Cases whose events all occur in one minute, long before the moment that is checked."""
    hangups, goodbyes = _hangups(slo)
    names = (
        (
            "PhonicCallersGivingUp",
            slo.alerts.callers_giving_up,
            hangups,
            f'{c.CONVERSATIONS_ENDED.sample_name}{{{_TARGET},{AGENT},ended_by="user"}}',
        ),
        (
            "PhonicErrorEndings",
            slo.alerts.error_endings,
            f'{c.CONVERSATION_ERRORS.sample_name}{{{_TARGET},{AGENT},reason="error"}}',
            f'{c.CONVERSATIONS_ENDED.sample_name}{{{_TARGET},{AGENT},ended_by="error"}}',
        ),
        (
            "PhonicToolFailures",
            slo.alerts.tool_failures,
            f'{c.TOOL_CALL_FAILURES.sample_name}{{{_TARGET},{AGENT},reason="timeout"}}',
            f"{c.TOOL_CALLS.sample_name}{{{_TARGET},{AGENT}}}",
        ),
    )
    cases: list[Case] = []
    for alert, of, bad, every in names:
        start = minutes_of(of.window)
        look = start + minutes_of(of.window) // 2 + minutes_of(of.lasting)
        over = start + 2 * minutes_of(of.window) + minutes_of(of.lasting) + minutes_of(of.keep_firing)
        # Four times the minimum, so that extrapolation does not matter.
        many, at_edge = 4 * of.minimum, round(4 * of.minimum / of.ratio)

        def burst(count: int, start: int = start) -> str:
            return f"0x{start} {count}x{_FLAT // 10}"

        # Every hang-up of these cases was a long wait; a series that the other alerts do not read.
        other = {goodbyes: burst(0)}
        cases += [
            Case(
                alert=alert,
                title="fires on a share above the threshold and recovers",
                series={bad: burst(many), every: burst(2 * many), **other},
                expected=(
                    Expected(minutes=start),
                    Expected(minutes=look, labels=WHO, value=percent(0.5)),
                    Expected(minutes=over),
                ),
            ),
            Case(
                alert=alert,
                title="silent at exactly the threshold",
                series={bad: burst(many), every: burst(at_edge), **other},
                expected=(Expected(minutes=look),),
            ),
            Case(
                alert=alert,
                title="silent when there are too few events to call it a share",
                series={bad: burst(of.minimum - 1), every: burst(of.minimum - 1), **other},
                expected=(Expected(minutes=look),),
            ),
        ]
        if bad == hangups:
            cases.append(
                Case(
                    alert=alert,
                    title="silent about callers who say goodbye",
                    series={hangups: burst(many), goodbyes: burst(many), every: burst(many)},
                    expected=(Expected(minutes=look),),
                )
            )
    return tuple(cases)


def _concurrency(slo: Slo) -> tuple[Case, ...]:
    limit = 100
    cases: list[Case] = []
    table: tuple[tuple[str, Saturation, int, int], ...] = (
        ("PhonicConcurrencyAtLimit", slo.alerts.concurrency_at_limit, 0, 1),
        ("PhonicConcurrencyNearLimit", slo.alerts.concurrency_near_limit, 10, 0),
    )
    for alert, of, beyond, below in table:
        edge = round(of.ratio * limit)
        busy, calm = edge + beyond, edge - below
        after, over = 11 + minutes_of(of.lasting), 31 + minutes_of(of.keep_firing) + 2
        for whose, active, limit_of, labels in (
            ("a project", c.PROJECT_ACTIVE.name, c.PROJECT_LIMIT.name, {"project": "main"}),
            ("the workspace", c.WORKSPACE_ACTIVE.name, c.WORKSPACE_LIMIT.name, {}),
        ):
            target = f'{_TARGET},project="main"' if labels else _TARGET
            cases.append(
                Case(
                    alert=alert,
                    title=f"silent at its edge, fires for {whose} beyond it, recovers",
                    series={
                        f"{active}{{{target}}}": f"{calm}x10 {busy}x20 {calm}x40",
                        f"{limit_of}{{{target}}}": f"{limit}x100",
                    },
                    expected=(
                        Expected(minutes=9),
                        Expected(minutes=after, labels={"job": JOB, **labels}, value=percent(busy / limit)),
                        Expected(minutes=over),
                    ),
                )
            )
        cases.append(
            Case(
                alert=alert,
                title="silent in a project without a limit of its own",
                series={f'{c.PROJECT_ACTIVE.name}{{{_TARGET},project="main"}}': "1000x60"},
                expected=(Expected(minutes=30),),
            )
        )
    return tuple(cases)


def _twice(series: dict[str, str], second: dict[str, str] | None = None) -> dict[str, str]:
    """Return the series of two exporters; those of the second are ``second`` if given, else the same."""
    other = {name.replace('instance="a:10058"', 'instance="b:10058",pod="b"'): v for name, v in series.items()}
    return {**series, **other, **(second or {})}


def _replicas(slo: Slo) -> tuple[Case, ...]:
    """Cases with two exporters that watch the same conversations: every event must count only once."""
    waiting, short = slo.alerts.callers_waiting, slo.alerts.watching_falls_short
    errors, lost, feed = slo.alerts.error_endings, slo.alerts.conversations_lost, slo.alerts.feed_errors
    long = 2 * int(waiting.seconds)
    ids = [f'conversation_id="conv_{n}"' for n in range(waiting.callers)]
    info = {f'{c.LIVE_INFO.name}{{{_TARGET},{i},{AGENT},origin="direct"}}': "1x60" for i in ids}
    since = {f"{c.LIVE_WAITING_SINCE.name}{{{_TARGET},{i}}}": f"{-long}+60x60" for i in ids}
    too_few = {k: v for k, v in {**info, **since}.items() if ids[0] not in k}
    active = round(4 * short.minimum / short.ratio)
    watched = active - 4 * short.minimum
    projects = {
        f'{c.PROJECT_ACTIVE.name}{{{_TARGET},project="main"}}': f"{active}x60",
        f'{c.DISCOVERED.name}{{{_TARGET},project="main"}}': f"{active}x60",
        f"{c.CONVERSATIONS_LIVE.name}{{{_TARGET},{AGENT}}}": f"{watched}x60",
    }
    start = minutes_of(errors.window)
    look = start + start // 2 + minutes_of(errors.lasting)
    count = errors.minimum - 1

    def burst(number: int, at: int = start) -> str:
        return f"0x{at} {number}x{_FLAT // 10}"

    window = minutes_of(lost.window)
    settled = 2 * min(minutes_of(w.long) for w in slo.burn.fast.windows)
    le = promql.bound(slo.response.threshold_seconds)
    few = f"0+{(slo.response.minimum - 1) / settled:g}x{settled}"
    turns = {
        f'{c.RESPONSE.name}_bucket{{{_TARGET},{AGENT},le="{le}"}}': f"0x{settled}",
        f"{c.RESPONSE.name}_count{{{_TARGET},{AGENT}}}": few,
    }
    hangups, goodbyes = _hangups(slo)
    unanswered = {**dict.fromkeys(turns, f"0x{settled}"), hangups: few, goodbyes: f"0x{settled}"}
    leaving = slo.alerts.callers_giving_up
    left = minutes_of(leaving.window)
    return (
        Case(
            alert="PhonicCallersWaiting",
            title="one caller seen by two exporters is one caller",
            series=_twice(too_few),
            expected=(Expected(minutes=10),),
        ),
        Case(
            alert="PhonicCallersWaiting",
            title="fires for as many callers as there are, even if the exporters name their agent differently",
            series=_twice({**info, **since})
            | {
                f'{c.LIVE_INFO.name}{{{_TARGET},{ids[0]},{AGENT},origin="direct"}}'.replace(
                    "a:10058", "c:10058"
                ).replace("front desk", "none"): "1x60",
                f"{c.LIVE_WAITING_SINCE.name}{{{_TARGET},{ids[0]}}}".replace(
                    "a:10058", "c:10058"
                ): f"{-long}+60x60",
            },
            expected=(Expected(minutes=10, labels=WHO, value=str(waiting.callers)),),
        ),
        Case(
            alert="PhonicWatchingFallsShort",
            title="fires when each of two exporters watches the same part",
            series=_twice(projects),
            expected=(
                Expected(
                    minutes=12 + minutes_of(short.lasting),
                    labels={"job": JOB, "project": "main"},
                    value=str(active - watched),
                ),
            ),
        ),
        Case(
            alert="PhonicErrorEndings",
            title="too few errors stay too few when two exporters count them",
            series=_twice(
                {
                    f'{c.CONVERSATION_ERRORS.sample_name}{{{_TARGET},{AGENT},reason="error"}}': burst(count),
                    f'{c.CONVERSATIONS_ENDED.sample_name}{{{_TARGET},{AGENT},ended_by="error"}}': burst(count),
                }
            ),
            expected=(Expected(minutes=look),),
        ),
        Case(
            alert="PhonicConversationsLost",
            title="a few lost conversations stay a few when two exporters count them",
            series=_twice(
                {
                    f'{c.CONVERSATIONS_LOST.sample_name}{{{_TARGET},reason="never_live"}}': burst(
                        lost.minimum - 1, window
                    ),
                    f"{c.CONVERSATIONS.sample_name}{{{_TARGET},{AGENT}}}": burst(lost.minimum - 1, window),
                }
            ),
            expected=(Expected(minutes=window + window // 2),),
        ),
        Case(
            alert="PhonicFeedErrors",
            title="too few feeds break when each of two exporters loses them",
            series=_twice(
                {
                    f'{c.FEED_ERRORS.sample_name}{{{_TARGET},reason="connect"}}': burst(feed.minimum - 1, 10),
                    f'{c.WATCHERS.name}{{{_TARGET},state="live"}}': "2x60",
                }
            ),
            expected=(Expected(minutes=11 + minutes_of(feed.lasting)),),
        ),
        Case(
            alert="PhonicResponseBudgetBurnFast",
            title="too few slow turns stay too few when two exporters count them",
            series=_twice(turns),
            expected=(Expected(minutes=settled),),
        ),
        Case(
            alert="PhonicResponseBudgetBurnFast",
            title="too few callers who gave up stay too few when two exporters count them",
            series=_twice(unanswered),
            expected=(Expected(minutes=settled),),
        ),
        Case(
            alert="PhonicCallersGivingUp",
            title="too few callers stay too few when two exporters count them",
            series=_twice(
                {
                    hangups: burst(leaving.minimum - 1, left),
                    goodbyes: burst(0, left),
                    f'{c.CONVERSATIONS_ENDED.sample_name}{{{_TARGET},{AGENT},ended_by="user"}}': burst(
                        leaving.minimum - 1, left
                    ),
                }
            ),
            expected=(Expected(minutes=left + left // 2 + minutes_of(leaving.lasting)),),
        ),
    )


def _burns(slo: Slo, speed: str, burn: Burn) -> tuple[Case, ...]:
    response, conversations = indicators(slo)
    return (
        *_burn(slo, response, f"PhonicResponseBudgetBurn{speed}", burn),
        *_burn(slo, conversations, f"PhonicErrorBudgetBurn{speed}", burn),
    )


def _pages(slo: Slo) -> tuple[Case, ...]:
    """Cases of a total outage after hours without errors, which must page within ten minutes.

    Samples lie in the middle of each minute, so that every range holds the same number in every Prometheus.
    """
    calm, page = 360, QUICKEST_PAGE_SECONDS // 60
    each, length = 100, calm + page + 1

    def counts(before: int, after: int) -> str:
        # Far above 0, because Prometheus does not extrapolate a counter below 0.
        values = (_FLAT + before * min(i, calm) + after * max(i - calm, 0) for i in range(1, length))
        return "_ " + " _ ".join(map(str, values))

    le = promql.bound(slo.response.threshold_seconds)
    ended = c.CONVERSATIONS_ENDED.sample_name

    def share(budget: float) -> float:
        """Return the ratio of the first window that burns. A window of n minutes holds n - 1 increases."""
        shares = ((w, page / max(minutes_of(w.long) - 1, page)) for w in slo.burn.fast.windows)
        return next(bad for w, bad in shares if bad > slo.factor(w) * budget)

    hangups, goodbyes = _hangups(slo)
    table = (
        (
            "PhonicResponseBudgetBurnFast",
            "of an agent that answers no more, whose callers hang up",
            slo.response.objective,
            {
                f'{c.RESPONSE.name}_bucket{{{_TARGET},{AGENT},le="{le}"}}': counts(each, 0),
                f"{c.RESPONSE.name}_count{{{_TARGET},{AGENT}}}": counts(each, 0),
                hangups: counts(each, each),
                goodbyes: counts(each, 0),
            },
        ),
        (
            "PhonicResponseBudgetBurnFast",
            "of slow answers",
            slo.response.objective,
            {
                f'{c.RESPONSE.name}_bucket{{{_TARGET},{AGENT},le="{le}"}}': counts(each, 0),
                f"{c.RESPONSE.name}_count{{{_TARGET},{AGENT}}}": counts(each, each),
            },
        ),
        (
            "PhonicErrorBudgetBurnFast",
            "of errors",
            slo.conversations.objective,
            {
                f'{c.CONVERSATION_ERRORS.sample_name}{{{_TARGET},{AGENT},reason="error"}}': counts(0, each),
                f'{ended}{{{_TARGET},{AGENT},ended_by="error"}}': counts(0, each),
                f'{ended}{{{_TARGET},{AGENT},ended_by="user"}}': counts(each, 0),
            },
        ),
    )
    return tuple(
        Case(
            alert=alert,
            title=f"pages within {page} minutes of a total outage {what}, after hours of calm, not before it",
            series=series,
            expected=(
                Expected(minutes=calm),
                Expected(minutes=calm + page, labels=WHO, value=percent(share(1 - objective))),
            ),
            interval="30s",
        )
        for alert, what, objective, series in table
    )


def _burn(slo: Slo, indicator: Indicator, alert: str, burn: Burn) -> list[Case]:
    """Cases for all windows of a burn rate alert: the largest factor fires all, the smallest is the threshold.

    Traffic is ``each`` events per step. A step is half of the shortest window, so that days need only hundreds of
    samples, and less than Prometheus' lookback of five minutes.
    """
    shortest = min(minutes_of(w.short) for w in burn.windows)
    step = min(max(shortest // 2, 1), _LONGEST_STEP)
    each = 100
    budget = 1 - indicator.objective
    is_response = indicator.name == "response"
    smallest = min(slo.factor(w) for w in burn.windows)
    largest = max(slo.factor(w) for w in burn.windows)
    bad = (1 + largest * budget) / 2  # halfway between the largest threshold and 1
    long, short = min(minutes_of(w.long) for w in burn.windows), max(minutes_of(w.short) for w in burn.windows)
    # Longer windows are only partly filled by then, which changes counts but not ratios.
    settled = max(long, short) + step
    lasting, keep = minutes_of(burn.lasting), minutes_of(burn.keep_firing)
    recovered = settled + short + keep + 5 * step
    samples = recovered // step

    def traffic(share: float, change: float | None = None, at: int = 0, scale: float = 1) -> dict[str, str]:
        """Return cumulative counts of ``each * scale`` events per step: ``share`` are bad, later ``change``."""

        def counts(rate: float, later: float) -> str:
            first = at // step or samples
            turned = rate * first
            tail = f" {turned + later:g}+{later:g}x{samples - first}" if change is not None else ""
            return f"0+{rate:g}x{first}{tail}"

        every = each * scale
        worse = every * share, every * (change or 0)
        if is_response:
            le = promql.bound(slo.response.threshold_seconds)
            within = every - worse[0], every - worse[1]
            name = c.RESPONSE.name
            return {
                f'{name}_bucket{{{_TARGET},{AGENT},le="{le}"}}': counts(*within),
                f'{name}_bucket{{{_TARGET},{AGENT},le="+Inf"}}': counts(every, every),
                _every(c.RESPONSE): counts(every, every),
            }
        good = every - worse[0], every - worse[1]
        ended = c.CONVERSATIONS_ENDED.sample_name
        return {
            f'{c.CONVERSATION_ERRORS.sample_name}{{{_TARGET},{AGENT},reason="error"}}': counts(*worse),
            f'{ended}{{{_TARGET},{AGENT},ended_by="error"}}': counts(*worse),
            f'{ended}{{{_TARGET},{AGENT},ended_by="user"}}': counts(*good),
        }

    def case(title: str, series: dict[str, str], *expected: Expected) -> Case:
        return Case(alert=alert, title=title, series=series, expected=expected, step=step)

    scarce = (indicator.minimum - 1) / bad / (settled / step + 1) / each
    hangups, goodbyes = _hangups(slo)
    never = {hangups: traffic(bad)[_every(c.RESPONSE)], goodbyes: f"0x{samples}"} if is_response else {}
    return [
        *(
            [
                case(
                    "fires when the agent answers nothing and every caller gives up",
                    {**traffic(0, scale=0), **never},
                    Expected(minutes=settled, labels=WHO, value="100%"),
                ),
                case(
                    "silent when callers say goodbye",
                    {**traffic(0), **dict.fromkeys(never, never[hangups])},
                    Expected(minutes=settled),
                ),
            ]
            if is_response
            else []
        ),
        case(
            "fires on a burn and recovers soon after it stops",
            traffic(bad, 0, settled),
            Expected(minutes=settled, labels=WHO, value=percent(bad)),
            Expected(minutes=recovered),
        ),
        case(
            "silent just below the slowest burn that counts",
            traffic(0.99 * smallest * budget),
            Expected(minutes=settled),
        ),
        case(
            "fires just above the slowest burn that counts",
            traffic(1.01 * smallest * budget),
            Expected(minutes=settled, labels=WHO, value=percent(1.01 * smallest * budget)),
        ),
        case(
            "silent when only the short window burns",
            # By then half of the budget share of the shortest long window has been spent.
            traffic(0, bad, settled),
            Expected(minutes=settled + max(int(long * smallest * budget / bad / 2), step, lasting)),
        ),
        case(
            "silent when there are too few bad events to call it a burn",
            traffic(bad, scale=scarce),
            Expected(minutes=settled),
        ),
    ]


def _every(family: c.Family) -> str:
    """The series of all observations of a histogram."""
    return f"{family.name}_count{{{_TARGET},{AGENT}}}"


def _exporter(slo: Slo) -> tuple[Case, ...]:
    return (
        *_up(slo),
        *_states(slo),
        *_delays(slo),
        *_feeds(slo),
        *_shortfall(slo),
        *_lost(slo),
        *_occurrences(slo),
    )


def _up(slo: Slo) -> tuple[Case, ...]:
    up = f"up{{{_TARGET.replace(JOB, slo.job)}}}"
    down = minutes_of(slo.alerts.exporter_down.lasting)
    return (
        Case(
            alert="PhonicExporterDown",
            title="fires when scrapes fail and recovers",
            series={up: f"1x5 0x{down + 5} 1x20"},
            expected=(
                Expected(minutes=5),
                Expected(minutes=6 + down, labels={"job": slo.job, "instance": "a:10058"}, value="0"),
                Expected(minutes=5 + down + 7),
            ),
        ),
        Case(
            alert="PhonicExporterDown",
            title="silent while a restart is shorter than it may be",
            series={up: "1x5 0 1x20"},
            expected=tuple(Expected(minutes=m) for m in (6, 7, 8)),
        ),
        Case(
            alert="PhonicExporterDown",
            title="fires when there is no target at all",
            series={},
            expected=(Expected(minutes=down + 1, labels={"job": slo.job}, value="absent"),),
        ),
        Case(
            alert="PhonicUpstreamUnreachable",
            title="silent while another replica reaches it",
            series={
                f"{c.UP.name}{{{_TARGET}}}": "0x30",
                f'{c.UP.name}{{job="{JOB}",instance="b:10058"}}': "1x30",
            },
            expected=(Expected(minutes=20),),
        ),
        Case(
            alert="PhonicWatchdog",
            title="always fires, whatever else is there or not",
            series={},
            expected=(Expected(minutes=0, value="1"), Expected(minutes=60, value="1")),
        ),
    )


def _states(slo: Slo) -> list[Case]:
    """Cases of gauges that are 0 or 1."""
    of = slo.alerts
    table: tuple[tuple[str, Lasting, str, int, dict[str, str]], ...] = (
        ("PhonicUpstreamUnreachable", of.upstream_unreachable, c.UP.name, 0, {}),
        ("PhonicCredentialRefused", of.credential_refused, CREDENTIAL_REFUSED, 1, {}),
        ("PhonicFileNotReadAgain", of.file_not_read_again, c.RELOAD_SUCCESSFUL.name, 0, {"file": "watch"}),
        ("PhonicPagesNotCommitted", of.pages_not_committed, PAGES_COMMITTED, 0, {}),
    )
    cases: list[Case] = []
    for alert, rule, name, wrong, labels in table:
        lasting = minutes_of(rule.lasting)
        more = "".join(f',{label}="{value}"' for label, value in labels.items())
        series = f"{name}{{{_TARGET}{more}}}"
        cases += [
            Case(
                alert=alert,
                title="fires while it is so and recovers",
                series={series: f"{1 - wrong}x5 {wrong}x{lasting + 5} {1 - wrong}x20"},
                expected=(
                    Expected(minutes=5),
                    Expected(minutes=6 + lasting, labels={"job": JOB, **labels}, value=str(wrong)),
                    Expected(minutes=5 + lasting + 7),
                ),
            ),
            Case(
                alert=alert,
                title="silent while it is not known",
                series={f"{c.BUILD_INFO.name}{{{_TARGET}}}": "1x60"},
                expected=(Expected(minutes=30),),
            ),
        ]
    return cases


def _delays(slo: Slo) -> list[Case]:
    """Cases of gauges in seconds, and of ages of times that gauges hold, in multiples of a minute."""
    of = slo.alerts
    table = (
        ("PhonicDiscoveryStale", of.discovery_stale, c.DISCOVERY_LAST_SUCCESS.name, True),
        ("PhonicRequestsWaiting", of.requests_waiting, REQUESTS_WAITING_SINCE, True),
        ("PhonicEventLoopLag", of.event_loop_lag, EVENT_LOOP_LAG, False),
        ("PhonicClockOff", of.clock_off, CLOCK_OFFSET, False),
    )
    cases: list[Case] = []
    for alert, rule, name, is_time in table:
        lasting = minutes_of(rule.lasting)
        begin, end = 20, 20 + lasting + 5

        def values(wrong: float, is_time: bool = is_time, begin: int = begin, end: int = end) -> str:
            """Return ``wrong`` seconds between two moments, and a tenth of that before and after."""
            delays = [wrong if begin <= m < end else wrong / 10 for m in range(end + 20)]
            return " ".join(f"{60 * m - delay if is_time else delay:g}" for m, delay in enumerate(delays))

        series = f"{name}{{{_TARGET}}}"
        fires = Expected(minutes=begin + lasting, labels={"job": JOB}, value=duration(2 * rule.seconds))
        cases += [
            Case(
                alert=alert,
                title="fires beyond its limit and recovers",
                series={series: values(2 * rule.seconds)},
                expected=(Expected(minutes=begin - 1), fires, Expected(minutes=end + 2)),
            ),
            Case(
                alert=alert,
                title="silent at its limit, and while it is not known",
                series={series: values(rule.seconds)},
                expected=(Expected(minutes=begin + lasting), Expected(minutes=end + 40)),
            ),
        ]
        if alert == "PhonicClockOff":
            cases.append(
                Case(
                    alert=alert,
                    title="fires when the clock is slow",
                    series={series: values(-2 * rule.seconds)},
                    expected=(fires,),
                )
            )
    return cases


def duration(value: float) -> str:
    """Format as Prometheus' `humanizeDuration`, for less than an hour."""
    if value < 1:
        return f"{1000 * value:.4g}ms"
    if value < 60:
        return f"{value:.4g}s"
    return f"{int(value) // 60}m {int(value) % 60}s"


def _feeds(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.feed_errors
    window, lasting = minutes_of(of.window), minutes_of(of.lasting)
    watchers = round(4 * of.minimum / of.ratio)  # at the ratio, four times the minimum

    def case(title: str, errors: int, watched: int, *expected: Expected) -> Case:
        return Case(
            alert="PhonicFeedErrors",
            title=title,
            series={
                f'{c.FEED_ERRORS.sample_name}{{{_TARGET},reason="connect"}}': (
                    f"0x10 {errors}+{errors}x{2 * window} {errors * (2 * window + 1)}x60"
                ),
                f'{c.WATCHERS.name}{{{_TARGET},state="live"}}': f"{watched // 2}x100",
                f'{c.WATCHERS.name}{{{_TARGET},state="waiting"}}': f"{watched // 2}x100",
            },
            expected=expected,
        )

    enough = -(-4 * of.minimum // window) + 1  # per minute: above the ratio within the window
    look = 11 + window + lasting
    return (
        case(
            "fires in a storm and recovers",
            enough,
            watchers,
            Expected(minutes=10),
            Expected(minutes=look, labels={"job": JOB}, value=f"{enough * window:g}"),
            Expected(minutes=12 + 4 * window + lasting + minutes_of(of.keep_firing)),
        ),
        case("silent just below its share of many feeds", enough - 2, watchers, Expected(minutes=look)),
        case(
            "silent when few feeds break, whatever their share",
            (of.minimum - 1) // window,
            2,
            Expected(minutes=look),
        ),
    )


def _shortfall(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.watching_falls_short
    lasting = minutes_of(of.lasting)
    active = round(4 * of.minimum / of.ratio)
    allowed = 4 * of.minimum
    active_of = f'{c.PROJECT_ACTIVE.name}{{{_TARGET},project="main"}}'
    searched = {f'{c.DISCOVERED.name}{{{_TARGET},project="main"}}': "0x60"}
    live_of = f"{c.CONVERSATIONS_LIVE.name}{{{_TARGET},{AGENT}}}"
    look = 11 + lasting
    main = {"job": JOB, "project": "main"}

    def case(title: str, series: dict[str, str], *expected: Expected) -> Case:
        return Case(alert="PhonicWatchingFallsShort", title=title, series=series, expected=expected)

    return (
        case(
            "silent just below its share, fires at it, recovers",
            {
                **searched,
                active_of: f"{active}x60",
                live_of: f"{active - allowed + 1}x10 {active - allowed}x{lasting + 5} {active}x40",
            },
            Expected(minutes=10),
            Expected(minutes=look, labels=main, value=str(allowed)),
            Expected(minutes=look + 12 + minutes_of(of.keep_firing)),
        ),
        case(
            "fires when nothing of a project is watched",
            {**searched, active_of: "5x60"},
            Expected(minutes=look, labels=main, value="5"),
        ),
        case(
            "silent where discovery does not search the project",
            {active_of: f"{active}x60"},
            Expected(minutes=look),
        ),
        case(
            "silent when only a call or two are missing",
            {**searched, active_of: f"{of.minimum - 1}x60", live_of: "0x60"},
            Expected(minutes=look),
        ),
        case(
            "silent where metrics carry no project",
            {**searched, active_of: f"{active}x60", f'{c.CONVERSATIONS_LIVE.name}{{{_TARGET},agent="a"}}': "0x60"},
            Expected(minutes=look),
        ),
    )


def _lost(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.conversations_lost
    window, lasting = minutes_of(of.window), minutes_of(of.lasting)
    look = 2 * window + lasting

    def case(title: str, lost: int, seen: int, *expected: Expected) -> Case:
        return Case(
            alert="PhonicConversationsLost",
            title=title,
            series={
                f'{c.CONVERSATIONS_LOST.sample_name}{{{_TARGET},reason="never_live"}}': (
                    f"0+{lost}x{3 * window} {3 * window * lost}x{3 * window}"
                ),
                f"{c.CONVERSATIONS.sample_name}{{{_TARGET},{AGENT}}}": f"0+{seen}x{6 * window}",
            },
            expected=expected,
        )

    share = round(10 / of.ratio)
    return (
        case(
            "fires when the share is reached and recovers",
            11,
            share,
            Expected(minutes=look, labels={"job": JOB, "reason": "never_live"}, value=humanized(11 * window)),
            Expected(minutes=4 * window + 2 + lasting + minutes_of(of.keep_firing)),
        ),
        case("silent just below the share", 9, share, Expected(minutes=look)),
        Case(
            alert="PhonicConversationsLost",
            title="silent when only a few are lost, whatever their share",
            series={
                f'{c.CONVERSATIONS_LOST.sample_name}{{{_TARGET},reason="never_live"}}': (
                    f"0x{window} {of.minimum - 1}x{2 * window}"
                ),
                f"{c.CONVERSATIONS.sample_name}{{{_TARGET},{AGENT}}}": f"0x{window} 3x{2 * window}",
            },
            expected=(Expected(minutes=window + window // 2),),
        ),
    )


def humanized(value: float) -> str:
    """Format as Prometheus' `humanize`, for values up to a million."""
    return f"{value / 1000:.4g}k" if value >= 1000 else f"{value:.4g}"


def _occurrences(slo: Slo) -> list[Case]:
    of = slo.alerts
    table: tuple[tuple[str, Occurrence, dict[str, str], dict[str, str]], ...] = (
        ("PhonicCheckpointFailing", of.checkpoint_failing, {c.CHECKPOINT_ERRORS.sample_name: ""}, {}),
        (
            "PhonicSchemaDrift",
            of.schema_drift,
            {c.UNKNOWN_FIELDS.sample_name: ',object="item"', c.UNKNOWN_WORDS.sample_name: ',field="role"'},
            {},
        ),
        (
            "PhonicLabelsFolded",
            of.labels_folded,
            {c.LABEL_VALUES_FOLDED.sample_name: ',label="agent"'},
            {"label": "agent"},
        ),
    )
    cases: list[Case] = []
    for alert, rule, names, labels in table:
        window, lasting = minutes_of(rule.window), minutes_of(rule.lasting)
        rising = window + 2 * lasting + 10
        first, *others = (f"{name}{{{_TARGET}{label}}}" for name, label in names.items())
        flat = dict.fromkeys(others, f"7x{rising + 3 * window}")
        cases += [
            Case(
                alert=alert,
                title="fires while it happens and recovers a window after it stopped",
                series={first: f"0+1x{rising} {rising}x{3 * window}"} | flat,
                expected=(
                    Expected(minutes=rising, labels={"job": JOB, **labels}, value=humanized(window)),
                    Expected(minutes=rising + window + 2),
                ),
            ),
            Case(
                alert=alert,
                title="silent about what happened before it was first seen",
                series={first: f"7x{rising + window}"} | flat,
                expected=(Expected(minutes=rising),),
            ),
        ]
    return cases
