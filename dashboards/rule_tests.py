"""Pure: promtool unit tests of the rules, written from the same numbers as the rules.

Every alert has cases in which it fires, stays silent at its edge, and recovers; a ratio also one with too little
traffic, a burn also one in which only one of its two windows burns.

Rules for this file: rates are constant around every moment that is looked at, so that the half-open ranges of
Prometheus 3 give the same answers as the closed ones of Prometheus 2; every number comes from ``slo.yml``.
"""

import re
from typing import Any

import attrs

from exporter.metrics import catalogue as c

from . import promql
from .alerts import Alert, alerts
from .rules import Indicator, indicators
from .slo import Burn, Occurrence, Slo, seconds

_JOB = "phonic-exporter"
_TARGET = f'job="{_JOB}",instance="a:10058"'
# An agent whose name has to be escaped in a link.
_AGENT = 'project="main",agent="front desk"'
_WHO = {"job": _JOB, "project": "main", "agent": "front desk"}
_FLAT = 10_000


@attrs.frozen(kw_only=True)
class Expected:
    """At ``minutes`` the alert fires with these labels, its value shown as ``value``; silent without labels."""

    minutes: int
    labels: dict[str, str] = attrs.field(factory=dict)
    value: str = ""


@attrs.frozen(kw_only=True)
class Case:
    """One situation: series in promtool's notation, one sample every ``step`` minutes, and what must follow."""

    alert: str
    title: str
    series: dict[str, str]
    expected: tuple[Expected, ...]
    step: int = 1


def rule_tests(slo: Slo) -> dict[str, dict[str, Any]]:
    """Test files by stem. The cases of one file share its step, at which the rules are evaluated too."""
    known = {alert.name: alert for alert in alerts(slo)}
    files = {
        "callers": (*_waiting(slo), *_shares(slo), *_concurrency(slo)),
        "budgets-fast": _burns(slo, "Fast", slo.burn.fast),
        "budgets-slow": _burns(slo, "Slow", slo.burn.slow),
        "exporter": _exporter(slo),
    }
    return {
        stem: {
            "rule_files": ["../recording.yml", "../alerts.yml"],
            "evaluation_interval": f"{cases[0].step}m",
            "tests": [_test(case, known[case.alert], slo) for case in cases],
        }
        for stem, cases in files.items()
    }


def _test(case: Case, alert: Alert, slo: Slo) -> dict[str, Any]:
    return {
        "name": f"{case.alert}: {case.title}",
        "interval": f"{case.step}m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{e.minutes}m",
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
        ],
    }


def _rendered(template: str, e: Expected) -> str:
    """What Prometheus makes of the few template forms that alerts use."""
    text = re.sub(
        r"{{ if \$labels\.(\w+) }}(.*?){{ else }}(.*?){{ end }}",
        lambda m: m[2] if e.labels.get(m[1]) else m[3],
        template,
    )
    text = re.sub(r"{{ \$labels\.(\w+) \| urlquery }}", lambda m: e.labels.get(m[1], "").replace(" ", "+"), text)
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda m: e.labels.get(m[1], ""), text)
    return re.sub(r"{{ \$value[^}]*}}", e.value, text)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g}%"


def _minutes(duration: str) -> int:
    """Whole minutes, rounded up, after which something of that length is over."""
    return -(-seconds(duration) // 60)


def _waiting(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.callers_waiting
    many = of.callers
    # Samples are a minute apart: a caller who began to wait at 10 min is seen waiting from then on.
    after = 10 + _minutes(f"{int(of.seconds) + 1}s") + _minutes(of.lasting)

    def callers(number: int, values: str) -> dict[str, str]:
        ids = [f'conversation_id="conv_{n}"' for n in range(number)]
        info = {f'{c.LIVE_INFO.name}{{{_TARGET},{i},{_AGENT},origin="direct"}}': "1x60" for i in ids}
        return info | {f"{c.LIVE_WAITING_SINCE.name}{{{_TARGET},{i}}}": values for i in ids}

    def case(title: str, number: int, values: str, *expected: Expected) -> Case:
        return Case(alert="PhonicCallersWaiting", title=title, series=callers(number, values), expected=expected)

    return (
        case(
            "fires while callers wait and recovers when they are answered",
            many,
            "_x9 600x20 stale",
            Expected(minutes=9),
            Expected(minutes=after, labels=_WHO, value=str(many)),
            Expected(minutes=32 + _minutes(of.keep_firing)),
        ),
        case(
            "silent while every wait is exactly as long as allowed",
            many,
            f"{-of.seconds:g}+60x60",
            Expected(minutes=after),
            Expected(minutes=40),
        ),
        case("silent when nobody waits", 0, "", Expected(minutes=after)),
    )


def _shares(slo: Slo) -> tuple[Case, ...]:
    """Bad and good events of the window happen in one minute, long before anybody looks."""
    names = (
        (
            "PhonicErrorEndings",
            slo.alerts.error_endings,
            f'{c.CONVERSATION_ERRORS.sample_name}{{{_TARGET},{_AGENT},reason="error"}}',
            f'{c.CONVERSATIONS_ENDED.sample_name}{{{_TARGET},{_AGENT},ended_by="error"}}',
        ),
        (
            "PhonicToolFailures",
            slo.alerts.tool_failures,
            f'{c.TOOL_CALL_FAILURES.sample_name}{{{_TARGET},{_AGENT},reason="timeout"}}',
            f"{c.TOOL_CALLS.sample_name}{{{_TARGET},{_AGENT}}}",
        ),
    )
    cases: list[Case] = []
    for alert, of, bad, every in names:
        start = _minutes(of.window)
        look = start + _minutes(of.window) // 2 + _minutes(of.lasting)
        over = start + 2 * _minutes(of.window) + _minutes(of.lasting)
        # Four times the minimum, so that extrapolation cannot decide.
        many, at_edge = 4 * of.minimum, round(4 * of.minimum / of.ratio)

        def burst(count: int, start: int = start) -> str:
            return f"0x{start} {count}x{_FLAT // 10}"

        cases += [
            Case(
                alert=alert,
                title="fires on a share above the threshold and recovers",
                series={bad: burst(many), every: burst(2 * many)},
                expected=(
                    Expected(minutes=start),
                    Expected(minutes=look, labels=_WHO, value=_percent(0.5)),
                    Expected(minutes=over),
                ),
            ),
            Case(
                alert=alert,
                title="silent at exactly the threshold",
                series={bad: burst(many), every: burst(at_edge)},
                expected=(Expected(minutes=look),),
            ),
            Case(
                alert=alert,
                title="silent when there are too few events to call it a share",
                series={bad: burst(of.minimum - 1), every: burst(of.minimum - 1)},
                expected=(Expected(minutes=look),),
            ),
        ]
    return tuple(cases)


def _concurrency(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.concurrency_near_limit
    limit = 100
    edge = round(of.ratio * limit)
    after = 10 + _minutes(of.lasting)

    def case(title: str, active: str, limit_of: str, *expected: Expected) -> Case:
        return Case(
            alert="PhonicConcurrencyNearLimit",
            title=title,
            series={active: f"{edge}x10 {edge + 10}x20 {edge}x20", limit_of: f"{limit}x100"},
            expected=(Expected(minutes=9), *expected, Expected(minutes=35)),
        )

    value = _percent((edge + 10) / limit)
    return (
        case(
            "silent at the threshold, fires for a project beyond it, recovers",
            f'{c.PROJECT_ACTIVE.name}{{{_TARGET},project="main"}}',
            f'{c.PROJECT_LIMIT.name}{{{_TARGET},project="main"}}',
            Expected(minutes=after + 1, labels={"job": _JOB, "project": "main"}, value=value),
        ),
        case(
            "silent at the threshold, fires for the workspace beyond it, recovers",
            f"{c.WORKSPACE_ACTIVE.name}{{{_TARGET}}}",
            f"{c.WORKSPACE_LIMIT.name}{{{_TARGET}}}",
            Expected(minutes=after + 1, labels={"job": _JOB}, value=value),
        ),
        Case(
            alert="PhonicConcurrencyNearLimit",
            title="silent in a project without a limit of its own",
            series={f'{c.PROJECT_ACTIVE.name}{{{_TARGET},project="main"}}': "1000x60"},
            expected=(Expected(minutes=30),),
        ),
    )


def _burns(slo: Slo, speed: str, burn: Burn) -> tuple[Case, ...]:
    response, conversations = indicators(slo)
    return (
        *_burn(slo, response, f"PhonicResponseBudgetBurn{speed}", burn),
        *_burn(slo, conversations, f"PhonicErrorBudgetBurn{speed}", burn),
    )


def _burn(slo: Slo, indicator: Indicator, alert: str, burn: Burn) -> list[Case]:
    """All windows of a burn share their cases: the largest factor fires them all, the smallest is the edge.

    Traffic is ``each`` events a step, which is half of the shortest window so that days stay hundreds of samples,
    and at most the five minutes that Prometheus looks back.
    """
    shortest = min(_minutes(w.short) for w in burn.windows)
    step = min(max(shortest // 2, 1), 5)
    each = 100
    budget = 1 - indicator.objective
    smallest = min(slo.factor(w) for w in burn.windows)
    largest = max(slo.factor(w) for w in burn.windows)
    bad = (1 + largest * budget) / 2  # between the largest threshold and everything
    long, short = min(_minutes(w.long) for w in burn.windows), max(_minutes(w.short) for w in burn.windows)
    # Longer windows are only partly filled by then, which changes counts but no share.
    settled = max(long, 2 * short) + step
    lasting, keep = _minutes(burn.lasting), _minutes(burn.keep_firing)
    recovered = settled + short + keep + 5 * step
    samples = recovered // step

    def traffic(share: float, change: float | None = None, at: int = 0, scale: float = 1) -> dict[str, str]:
        """Cumulative counts of ``each * scale`` events a step, of which ``share`` are bad, then ``change``."""

        def counts(rate: float, later: float) -> str:
            first = at // step or samples
            turned = rate * first
            tail = f" {turned + later:g}+{later:g}x{samples - first}" if change is not None else ""
            return f"0+{rate:g}x{first}{tail}"

        every = each * scale
        worse = every * share, every * (change or 0)
        if indicator.name == "response":
            le = promql.bound(slo.response.threshold_seconds)
            within = every - worse[0], every - worse[1]
            name = c.RESPONSE.name
            return {
                f'{name}_bucket{{{_TARGET},{_AGENT},le="{le}"}}': counts(*within),
                f'{name}_bucket{{{_TARGET},{_AGENT},le="+Inf"}}': counts(every, every),
                f"{name}_count{{{_TARGET},{_AGENT}}}": counts(every, every),
            }
        good = every - worse[0], every - worse[1]
        ended = c.CONVERSATIONS_ENDED.sample_name
        return {
            f'{c.CONVERSATION_ERRORS.sample_name}{{{_TARGET},{_AGENT},reason="error"}}': counts(*worse),
            f'{ended}{{{_TARGET},{_AGENT},ended_by="error"}}': counts(*worse),
            f'{ended}{{{_TARGET},{_AGENT},ended_by="user"}}': counts(*good),
        }

    def case(title: str, series: dict[str, str], *expected: Expected) -> Case:
        return Case(alert=alert, title=title, series=series, expected=expected, step=step)

    scarce = (indicator.minimum - 1) / bad / (settled / step + 1) / each
    return [
        case(
            "fires on a burn and recovers soon after it stops",
            traffic(bad, 0, settled),
            Expected(minutes=settled, labels=_WHO, value=_percent(bad)),
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
            Expected(minutes=settled, labels=_WHO, value=_percent(1.01 * smallest * budget)),
        ),
        case(
            "silent when only the short window burns",
            # Half of what the shortest long window asks for has been spent by then.
            traffic(0, bad, settled),
            Expected(minutes=settled + max(int(long * smallest * budget / bad / 2), step, lasting)),
        ),
        case(
            "silent when there are too few bad events to call it a burn",
            traffic(bad, scale=scarce),
            Expected(minutes=settled),
        ),
    ]


def _exporter(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts
    up = f"up{{{_TARGET.replace(_JOB, slo.job)}}}"
    down = _minutes(of.exporter_down.lasting)
    upstream = _minutes(of.upstream_unreachable.lasting)
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
            title="fires when REST fails and recovers",
            series={f"{c.UP.name}{{{_TARGET}}}": f"1x5 0x{upstream + 5} 1x20"},
            expected=(
                Expected(minutes=5 + upstream),
                Expected(minutes=6 + upstream, labels={"job": _JOB}, value="0"),
                Expected(minutes=5 + upstream + 7),
            ),
        ),
        Case(
            alert="PhonicUpstreamUnreachable",
            title="silent while another replica reaches it, or without REST",
            series={
                f"{c.UP.name}{{{_TARGET}}}": "0x30",
                f'{c.UP.name}{{job="{_JOB}",instance="b:10058"}}': "1x30",
            },
            expected=(Expected(minutes=20),),
        ),
        *_feeds(slo),
        *_shortfall(slo),
        *_lost(slo),
        *_occurrences(slo),
    )


def _feeds(slo: Slo) -> tuple[Case, ...]:
    of = slo.alerts.feed_errors
    window, lasting = _minutes(of.window), _minutes(of.lasting)
    watchers = round(4 * of.minimum / of.ratio)  # the ratio asks for four times the minimum

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

    enough = -(-4 * of.minimum // window) + 1  # a minute: over the ratio within the window
    look = 11 + window + lasting
    return (
        case(
            "fires in a storm and recovers",
            enough,
            watchers,
            Expected(minutes=10),
            Expected(minutes=look, labels={"job": _JOB}, value=f"{enough * window:g}"),
            Expected(minutes=12 + 4 * window + lasting),
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
    lasting = _minutes(of.lasting)
    active = round(4 * of.minimum / of.ratio)
    allowed = 4 * of.minimum
    active_of = f'{c.PROJECT_ACTIVE.name}{{{_TARGET},project="main"}}'
    searched = {f'{c.DISCOVERED.name}{{{_TARGET},project="main"}}': "0x60"}
    live_of = f"{c.CONVERSATIONS_LIVE.name}{{{_TARGET},{_AGENT}}}"
    look = 11 + lasting
    main = {"job": _JOB, "project": "main"}

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
            Expected(minutes=look + 12),
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
    window, lasting = _minutes(of.window), _minutes(of.lasting)
    look = 2 * window + lasting

    def case(title: str, lost: int, seen: int, *expected: Expected) -> Case:
        return Case(
            alert="PhonicConversationsLost",
            title=title,
            series={
                f'{c.CONVERSATIONS_LOST.sample_name}{{{_TARGET},reason="never_live"}}': (
                    f"0+{lost}x{3 * window} {3 * window * lost}x{3 * window}"
                ),
                f"{c.CONVERSATIONS.sample_name}{{{_TARGET},{_AGENT}}}": f"0+{seen}x{6 * window}",
            },
            expected=expected,
        )

    share = round(10 / of.ratio)
    return (
        case(
            "fires when the share is reached and recovers",
            11,
            share,
            Expected(minutes=look, labels={"job": _JOB, "reason": "never_live"}, value=_humanized(11 * window)),
            Expected(minutes=4 * window + 2 + lasting),
        ),
        case("silent just below the share", 9, share, Expected(minutes=look)),
        Case(
            alert="PhonicConversationsLost",
            title="silent when only a few are lost, whatever their share",
            series={
                f'{c.CONVERSATIONS_LOST.sample_name}{{{_TARGET},reason="never_live"}}': (
                    f"0x{window} {of.minimum - 1}x{2 * window}"
                ),
                f"{c.CONVERSATIONS.sample_name}{{{_TARGET},{_AGENT}}}": f"0x{window} 3x{2 * window}",
            },
            expected=(Expected(minutes=window + window // 2),),
        ),
    )


def _humanized(value: float) -> str:
    """`humanize` of Prometheus for values up to a million."""
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
        window, lasting = _minutes(rule.window), _minutes(rule.lasting)
        rising = window + 2 * lasting + 10
        first, *others = (f"{name}{{{_TARGET}{label}}}" for name, label in names.items())
        flat = dict.fromkeys(others, f"7x{rising + 3 * window}")
        cases += [
            Case(
                alert=alert,
                title="fires while it happens and recovers a window after it stopped",
                series={first: f"0+1x{rising} {rising}x{3 * window}"} | flat,
                expected=(
                    Expected(minutes=rising, labels={"job": _JOB, **labels}, value=_humanized(window)),
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
