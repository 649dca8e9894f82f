"""Pure: the values of a plan: a scenario, its projects and agents, and conversations with their whole timelines.

The live feed, REST and the oracle of a test are three views of the same plan. Times are whole milliseconds since
the epoch of the run (negative before it), so that a plan does not depend on when it is played.
"""

import itertools
from collections.abc import Sequence
from typing import Final

import attrs

from .faults import Fault

MODEL_INPUT: Final = "phonic_api_output_to_modal_input"
MODEL_GENERATION: Final = "model_generation_time"
FIRST_AUDIO: Final = "phonic_api_output_to_first_audio_chunk"

# A turn grows while it is spoken. Its updates are at most this far apart, so that no pause appears between them.
_GROWTH_MS: Final = 1000


@attrs.frozen(kw_only=True)
class Scenario:
    """What to play. Equal scenarios give equal plans.

    ``calls_per_minute`` is the mean arrival rate in real time. ``pace`` scales the turns and pauses of a call (1
    is realistic, 0.02 makes calls of a few seconds), but not the reported timings. ``turns`` is the median number
    of turns. Calls begin ``warm_up_s`` seconds before the epoch, so that some are live at the start. ``total``
    limits the number of conversations; None means no limit. ``faults`` are planned faults.
    """

    seed: int = 1
    projects: int = 3
    agents: int = 6
    calls_per_minute: float = 12.0
    turns: int = 14
    pace: float = 1.0
    warm_up_s: float = 300.0
    total: int | None = None
    faults: tuple[Fault, ...] = ()


@attrs.frozen(kw_only=True)
class Project:
    id: str
    name: str
    max_active_conversations: int | None


@attrs.frozen(kw_only=True)
class Agent:
    """An agent and its behaviour: latency medians in ms, words per turn, rate of tool calls."""

    id: str
    name: str
    project: Project
    model_input_ms: float
    generation_ms: float
    spread: float
    silence_ms: float
    words: float
    tool_rate: float
    tool_id: str


@attrs.frozen(kw_only=True)
class Workspace:
    id: str
    name: str
    max_active_conversations: int
    projects: tuple[Project, ...]
    agents: tuple[Agent, ...]


@attrs.frozen(kw_only=True)
class ToolCall:
    """A tool call. ``failure`` is None, ``timeout``, ``http_4xx``, ``http_5xx`` or ``error``."""

    id: str
    name: str
    called_ms: int
    failure: str | None


@attrs.frozen(kw_only=True)
class Turn:
    """One item. It appears at ``visible_ms`` and grows to ``duration_ms``; its timings appear at ``timings_ms``.

    A turn appears only after the previous one has ended, so that an ended turn changes only by late timings.
    ``timings`` is None if the real service sends none (user turns, silent turns, some welcome messages).
    """

    index: int
    role: str
    started_ms: int
    duration_ms: int
    visible_ms: int
    timings_ms: int
    timings: dict[str, int] | None
    silent: bool
    tool_calls: tuple[ToolCall, ...]
    text: str

    @property
    def ended_ms(self) -> int:
        return self.started_ms + self.duration_ms


@attrs.frozen(kw_only=True)
class Conversation:
    """One planned conversation. ``started_ms`` is None for an unanswered call; ``agent`` may be missing.

    ``ended_by`` and ``analysis`` appear in REST ``settle_ms`` after the end.
    """

    id: str
    number: int
    project: Project
    agent: Agent | None
    created_ms: int
    started_ms: int | None
    ended_ms: int
    settle_ms: int
    ended_by: str
    turns: tuple[Turn, ...]
    interruptions: int
    origin: str
    is_test: bool
    language: str
    phonic_model: str
    welcome_message: str | None

    @property
    def duration_ms(self) -> int:
        """The final ``duration_ms``: 0 for an unanswered call."""
        return 0 if self.started_ms is None else self.ended_ms - self.started_ms

    @property
    def by_phone(self) -> bool:
        """Whether the origin is inbound or outbound telephony."""
        return "bound" in self.origin


def response_gaps_ms(turns: Sequence[Turn]) -> list[int]:
    """Return ``analysis.latencies_ms``: the pauses between a user turn and the spoken answer right after it."""
    gaps = (
        after.started_ms - before.ended_ms
        for before, after in itertools.pairwise(turns)
        if before.role == "user" and after.role == "assistant" and not after.silent
    )
    return [gap for gap in gaps if gap >= 0]


def change_times_ms(conversation: Conversation) -> list[int]:
    """Return the plan times at which the live object changes: start, turns that appear and grow, timings, end."""
    times = {conversation.created_ms, conversation.ended_ms}
    if conversation.started_ms is not None:
        times.add(conversation.started_ms)
    for turn in conversation.turns:
        times.add(turn.visible_ms)
        times.add(turn.timings_ms)
        parts = max(3, turn.duration_ms // _GROWTH_MS)
        grown = (turn.started_ms + turn.duration_ms * part // parts for part in range(1, parts + 1))
        times.update(time for time in grown if time > turn.visible_ms)
    return sorted(times)
