"""Pure: recording rules, one group per window so that long windows are evaluated less often.

Names follow ``level:metric:operations``. The level is agent_project, the labels left by ``without (instance,
pod)`` and ``without (shard)``.
"""

from typing import Any

import attrs

from exporter.metrics import catalog

from . import promql
from .slo import Slo, seconds

# Must be below Prometheus' lookback of 5 minutes, or the recorded series would have gaps.
_SLOWEST_SECONDS = 120


@attrs.frozen(kw_only=True)
class Indicator:
    """An objective: rates of ``bad`` and of ``all_events`` over ``$window``, and their recorded names."""

    name: str
    objective: float
    minimum: int
    bad_name: str
    all_name: str
    bad: str
    all_events: str

    def ratio(self, window: str) -> str:
        """Return the recorded name of the ratio of bad events over ``window``."""
        return f"agent_project:{self.bad_name}:ratio_rate{window}"

    def rates(self, window: str) -> tuple[str, str]:
        """Return the recorded names of the rates of bad and of all events over ``window``."""
        return f"agent_project:{self.bad_name}:rate{window}", f"agent_project:{self.all_name}:rate{window}"

    def enough(self, window: str) -> str:
        """Return a condition: the window holds enough bad events for their ratio to be meaningful."""
        counted = self.bad.replace("$window", window).replace("rate(", "increase(")
        return f"({' '.join(counted.split())}) >= {self.minimum}"


def indicators(slo: Slo) -> tuple[Indicator, Indicator]:
    """Return the indicators: responses within the threshold, and conversations without an error.

    A caller who hangs up after having waited longer than the threshold is a response that never came: without
    them an agent that never answers would have no bad events. Shorter waits are goodbyes, and count as nothing.
    `or` keeps the responses of an exporter that does not count hang-ups yet.
    """
    errors, ended = catalog.CONVERSATION_ERRORS, catalog.CONVERSATIONS_ENDED
    slow, gave_up = _beyond_threshold(slo, catalog.RESPONSE), _beyond_threshold(slo, catalog.HANGUP_WAIT)
    answered = f"rate({catalog.RESPONSE.name}_count[$window])"
    return (
        Indicator(
            name="response",
            objective=slo.response.objective,
            minimum=slo.response.minimum,
            bad_name="phonic_turn_response_slow",
            all_name="phonic_turn_response",
            bad=promql.added(f"\n    ({slow})\n  +\n    ({gave_up})\nor\n    ({slow})\n"),
            all_events=promql.added(f"\n    {answered}\n  +\n    ({gave_up})\nor\n    {answered}\n"),
        ),
        Indicator(
            name="conversations",
            objective=slo.conversations.objective,
            minimum=slo.conversations.minimum,
            bad_name=errors.name,
            all_name=ended.name,
            bad=promql.counted(f"rate({errors.sample_name}[$window])", "reason"),
            all_events=promql.counted(f"rate({ended.sample_name}[$window])", "ended_by"),
        ),
    )


def _beyond_threshold(slo: Slo, family: catalog.Family) -> str:
    """Return the rate of a histogram's observations above the threshold of responses, over ``$window``."""
    le = promql.bound(slo.response.threshold_seconds)
    return f'rate({family.name}_count[$window]) - ignoring (le) rate({family.name}_bucket{{le="{le}"}}[$window])'


def budget_left(slo: Slo, indicator: Indicator, matchers: str) -> str:
    """Return the share of the period's budget that is left: below 0 if overspent, absent without events.

    Uses the recorded five-minute rates at five-minute steps, so that each event counts once and the query loads
    far fewer samples than with the raw series. Steps are aligned to the clock; before the first one has passed,
    the current rates are used instead.
    """
    step = slo.burn.ranges()[0]
    bad, every = (
        f"(sum(sum_over_time({name}{{{matchers}}}[{slo.period}:{step}])) or sum({name}{{{matchers}}}))"
        for name in indicator.rates(step)
    )
    return f"1 - {promql.ratio(bad, every)} / {1 - indicator.objective:.6g}"


def recording(slo: Slo) -> dict[str, Any]:
    """Return the rule file: for each window the rates of bad and of all events, and their ratio."""
    return {"groups": [_group(slo, window) for window in slo.burn.ranges()]}


def _group(slo: Slo, window: str) -> dict[str, Any]:
    rules = []
    for indicator in indicators(slo):
        bad, every = indicator.rates(window)
        rules += [
            {"record": bad, "expr": indicator.bad.replace("$window", window)},
            {"record": every, "expr": indicator.all_events.replace("$window", window)},
            {"record": indicator.ratio(window), "expr": f"{bad} / {every}"},
        ]
    interval = min(max(seconds(window) // 60, 15), _SLOWEST_SECONDS)
    return {"name": f"phonic-burn-{window}", "interval": f"{interval}s", "rules": rules}
