"""Pure: generates the plan of a scenario: turns, latencies, tool calls and the end of each conversation.

Each conversation has its own random generator, seeded with its number, so that a conversation does not depend on
how much of the plan has been generated.
"""

import itertools
import math
import random
import uuid
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

import attrs

from .faults import strength
from .scenario import (
    FIRST_AUDIO,
    MODEL_GENERATION,
    MODEL_INPUT,
    Agent,
    Conversation,
    Project,
    Scenario,
    ToolCall,
    Turn,
    Workspace,
)

T = TypeVar("T")

_PROJECT_NAMES: Final = ("main", "customer support", "Réservations ☎", "EU/outbound", "clinic", "logistics")
_AGENT_NAMES: Final = (
    "support-agent",
    "booking-agent",
    "billing-agent",
    'Zoë "concierge"',
    "survey-agent",
    "dispatch-agent",
    "intake-agent",
    "collections-agent",
)
# Weights of endings as in a busy workspace: mostly regular ones, every documented one sometimes.
_ENDINGS: Final = {
    "user": 50,
    "assistant": 37,
    "user_canceled": 4,
    "assistant_silence_limit_reached": 3,
    "user_validation_failed": 1.5,
    "error": 2,
    "configuration_endpoint_timed_out": 1,
    "configuration_endpoint_error": 1,
    "configuration_endpoint_invalid_response": 0.5,
}
_ORIGINS: Final = {
    "inbound": 48,
    "telephony-inbound": 8,
    "outbound": 12,
    "telephony-outbound": 6,
    "web": 9,
    "sdk-py": 4,
    "sdk-js": 4,
    "livekit-agents-py": 3,
    "web-playground": 5,
    "replay": 1,
}
_LANGUAGES: Final = {"en": 72, "es": 12, "de": 7, "fr": 5, "ja": 4}
_MODELS: Final = {"phonic-1": 60, "phonic-1.1": 40}
_TOOL_OUTCOMES: Final = {None: 90, "timeout": 3, "http_4xx": 3, "http_5xx": 2, "error": 2}
_TOOLS: Final = ("check_availability", "find_customer", "create_ticket", "web_search")
_FAILING_TOOL: Final = "create_ticket"
_WORDS: Final = (
    "yes no the a my your order number appointment tomorrow morning please thanks could you check that for me "
    "I would like to book change cancel it is about an invoice of course let me see one moment we have room at "
    "nine ten and half past four does work great anything else help with today goodbye"
).split()
_TEST_ORIGINS: Final = ("web-playground", "replay")
_WORD_MS: Final = 380  # conversational English, about 160 words a minute
_LONGEST_TURNS: Final = 8  # most turns of a conversation, as a multiple of the median


def workspace(scenario: Scenario) -> Workspace:
    """Return the projects and agents of a scenario. The first project is always ``main``."""
    rng = random.Random(f"{scenario.seed}/workspace")
    projects = tuple(
        Project(
            id=_id("proj", rng),
            name=_PROJECT_NAMES[number] if number < len(_PROJECT_NAMES) else f"project-{number + 1}",
            max_active_conversations=None if number % 3 == 2 else 50 * (1 + number % 3),
        )
        for number in range(scenario.projects)
    )
    agents = tuple(
        Agent(
            id=_id("agent", rng),
            name=_AGENT_NAMES[number] if number < len(_AGENT_NAMES) else f"agent-{number + 1}",
            project=projects[number % len(projects)],
            model_input_ms=rng.uniform(30, 130),
            generation_ms=rng.uniform(280, 620),
            spread=rng.uniform(0.15, 0.4),
            silence_ms=rng.uniform(120, 450),
            words=rng.uniform(8, 22),
            tool_rate=rng.uniform(0.03, 0.2),
            tool_id=_id("tool", rng),
        )
        for number in range(scenario.agents)
    )
    return Workspace(
        id=f"org_{rng.getrandbits(100):026X}",
        name="example-workspace",
        max_active_conversations=200,
        projects=projects,
        agents=agents,
    )


def plan(scenario: Scenario) -> Iterator[Conversation]:
    """Yield all conversations in the order in which they begin; endless unless ``total`` is set."""
    projects_and_agents = workspace(scenario)
    arrivals = random.Random(f"{scenario.seed}/arrivals")
    created_ms = -scenario.warm_up_s * 1000
    for number in itertools.count() if scenario.total is None else range(scenario.total):
        yield _conversation(scenario, projects_and_agents, number, round(created_ms))
        created_ms += arrivals.expovariate(scenario.calls_per_minute) * 60_000


def _conversation(scenario: Scenario, within: Workspace, number: int, created_ms: int) -> Conversation:
    rng = random.Random(f"{scenario.seed}/{number}")
    identity = _id("conv", rng)
    agent = rng.choice(within.agents)
    ended_by = _pick(rng, _ENDINGS)
    script = _Script(scenario, agent, rng, identity)
    ringing = script.scaled(_around(rng, 2500, 0.5))
    answered = not (ended_by == "user_canceled" and rng.random() < 0.6)
    script.at_ms = created_ms + ringing
    if answered:
        script.play(_length(rng, scenario.turns, ended_by), ended_by)
    else:
        script.at_ms += ringing
    turns = script.finished()
    if script.gave_up_after is not None:
        ended_by, wait = "user", script.gave_up_after
    elif ended_by == "assistant_silence_limit_reached":
        wait = 20_000
    else:
        # A goodbye: the caller hangs up before an answer would be late.
        wait = rng.uniform(200, 1200 if turns and turns[-1].role == "user" else 2000)
    ended_ms = max([script.at_ms + script.scaled(wait), *(turn.timings_ms for turn in turns)])
    if rng.random() < strength(scenario.faults, "error-wave", ended_ms):
        ended_by = "error"
    origin = _pick(rng, _ORIGINS)
    return Conversation(
        id=identity,
        number=number,
        project=agent.project,
        agent=None if rng.random() < 0.02 else agent,
        created_ms=created_ms,
        started_ms=created_ms + ringing if answered else None,
        ended_ms=ended_ms,
        settle_ms=script.scaled(_around(rng, 4000, 0.3)),
        ended_by=ended_by,
        turns=turns,
        interruptions=script.interruptions,
        origin=origin,
        is_test=origin in _TEST_ORIGINS,
        language=_pick(rng, _LANGUAGES),
        phonic_model=_pick(rng, _MODELS),
        welcome_message=turns[0].text if turns and turns[0].role == "assistant" else None,
    )


class _Script:
    """Generates the turns of one conversation. ``at_ms`` is the end of the last turn in plan time.

    ``gave_up_after``: the milliseconds after which a caller hangs up who got no answer; None for all others.
    """

    def __init__(self, scenario: Scenario, agent: Agent, rng: random.Random, identity: str) -> None:
        self._scenario = scenario
        self._agent = agent
        self._rng = rng
        self._identity = identity
        self._turns: list[Turn] = []
        # A generator of its own, so that a fault changes only what it is about.
        self._trouble = random.Random(f"{scenario.seed}/{identity}/trouble")
        self.at_ms = 0
        self.interruptions = 0
        self.gave_up_after: float | None = None

    def scaled(self, real_ms: float) -> int:
        """Scale a duration by the scenario's pace; at least 1 ms."""
        return max(1, round(real_ms * self._scenario.pace))

    def play(self, length: int, ended_by: str) -> None:
        """Generate about ``length`` turns."""
        rng = self._rng
        if length and rng.random() < 0.8:
            self._assistant(self.scaled(_around(rng, 500, 0.3)), timed=rng.random() < 0.9)
        while len(self._turns) < length:
            self._user()
            if self._strikes("no-answer"):
                self.gave_up_after = self._trouble.uniform(6000, 20_000)
                return
            if len(self._turns) >= length and ended_by != "assistant":
                return  # the conversation ends with a user turn
            self._answer()
            if rng.random() < 0.02:  # the user is silent, so the assistant asks again
                self._assistant(self.scaled(8000), timed=True)

    def finished(self) -> tuple[Turn, ...]:
        return tuple(self._turns)

    def _user(self) -> None:
        rng = self._rng
        last = self._turns[-1] if self._turns else None
        started_ms = self.at_ms + self.scaled(_around(rng, 700, 0.6))
        speaks = last is not None and last.role == "assistant" and last.duration_ms > 10
        if last is not None and speaks and (rng.random() < 0.07 or self._strikes("barge-in")):
            # The caller interrupts: the assistant stops a moment after the caller has started.
            cut_ms = int(last.duration_ms * rng.uniform(0.3, 0.9))
            started_ms = last.started_ms + max(1, int(cut_ms * 0.8))
            self.at_ms = max(last.started_ms + cut_ms, last.visible_ms)
            self._turns[-1] = attrs.evolve(last, duration_ms=cut_ms)
            self.interruptions += 1
        self._add("user", started_ms, self._words(10), tools=0.02)

    def _answer(self) -> None:
        rng, agent = self._rng, self._agent
        if rng.random() < 0.02:
            self._add("assistant", self.at_ms + self.scaled(agent.silence_ms), [], silent=True)
        elif rng.random() < 0.04 and self._turns[-1].duration_ms > 10:
            asked = self._turns[-1]
            early_ms = max(1, int(asked.duration_ms * rng.uniform(0.05, 0.3)))
            self._add("assistant", asked.ended_ms - early_ms, self._words(agent.words), timings=self._timings())
        else:
            asked, timings = self._turns[-1], self._timings()
            silence = agent.silence_ms * (strength(self._scenario.faults, "slow-end-of-turn", self.at_ms) or 1)
            pause = self.scaled(silence * rng.uniform(0.8, 1.3) + timings[FIRST_AUDIO])
            self._add(
                "assistant", self.at_ms + pause, self._words(agent.words), timings=timings, tools=agent.tool_rate
            )
            if (asked.tool_calls or self._turns[-1].tool_calls) and self._strikes("slow-tools"):
                self._delay(self._trouble.uniform(2000, 4000))

    def _assistant(self, pause_ms: int, *, timed: bool) -> None:
        timings = self._timings()
        self._add(
            "assistant", self.at_ms + pause_ms, self._words(self._agent.words), timings=timings if timed else None
        )

    def _timings(self) -> dict[str, int]:
        """Return latencies in ms: log-normal with a slow tail; the third is about the sum of the others."""
        rng, agent, faults = self._rng, self._agent, self._scenario.faults
        entering = _around(rng, agent.model_input_ms, 0.35)
        entering *= strength(faults, "slow-input", self.at_ms) or 1
        generating = _around(rng, agent.generation_ms, agent.spread)
        tail, factor = rng.random(), rng.uniform(2.5, 7)
        spike, extra = rng.random(), rng.uniform(2000, 6000)
        if tail < 0.015:
            generating *= factor
        generating *= strength(faults, "slow-model", self.at_ms) or 1
        if spike < strength(faults, "latency-spike", self.at_ms):
            generating += extra
        model_input, generation = round(entering), round(generating)
        return {
            MODEL_INPUT: model_input,
            MODEL_GENERATION: generation,
            FIRST_AUDIO: model_input + generation + rng.randint(0, 9),
        }

    def _delay(self, real_ms: float) -> None:
        """Let the last turn come later, because the model waits for a tool before it speaks."""
        turn, later = self._turns[-1], self.scaled(real_ms)
        timings = turn.timings and {
            MODEL_INPUT: turn.timings[MODEL_INPUT],
            MODEL_GENERATION: turn.timings[MODEL_GENERATION] + round(real_ms),
            FIRST_AUDIO: turn.timings[FIRST_AUDIO] + round(real_ms),
        }
        self._turns[-1] = attrs.evolve(
            turn,
            started_ms=turn.started_ms + later,
            visible_ms=turn.visible_ms + later,
            timings_ms=turn.timings_ms + later,
            timings=timings,
        )
        self.at_ms += later

    def _strikes(self, fault: str) -> bool:
        """Whether a fault that affects a share strikes now."""
        share = strength(self._scenario.faults, fault, self.at_ms)
        return share > 0 and self._trouble.random() < share

    def _words(self, median: float) -> list[str]:
        return self._rng.choices(_WORDS, k=max(1, min(120, round(_around(self._rng, median, 0.6)))))

    def _add(
        self,
        role: str,
        started_ms: int,
        words: list[str],
        *,
        timings: dict[str, int] | None = None,
        silent: bool = False,
        tools: float = 0,
    ) -> None:
        rng = self._rng
        visible_ms = max(started_ms, self.at_ms)
        duration_ms = 0 if silent else self.scaled(len(words) * _WORD_MS)
        late = timings is not None and rng.random() < 0.4
        tool_calls = tuple(
            self._tool_call(started_ms) for _ in range(rng.choice((1, 1, 2)) if rng.random() < tools else 0)
        )
        self._turns.append(
            Turn(
                index=len(self._turns),
                role=role,
                started_ms=started_ms,
                duration_ms=duration_ms,
                visible_ms=visible_ms,
                timings_ms=visible_ms + (self.scaled(rng.uniform(100, 3000)) if late else 0),
                timings=timings,
                silent=silent,
                tool_calls=tool_calls,
                text=" ".join(words).capitalize() + "." if words else "",
            )
        )
        self.at_ms = max(visible_ms, started_ms + duration_ms)

    def _tool_call(self, called_ms: int) -> ToolCall:
        rng = self._rng
        call = ToolCall(
            id=_id("tool_call", rng),
            name=rng.choice(_TOOLS),
            called_ms=called_ms,
            failure=_pick(rng, _TOOL_OUTCOMES),
        )
        if call.name == _FAILING_TOOL and self._strikes("tool-failures"):
            return attrs.evolve(call, failure=self._trouble.choice(("timeout", "http_5xx")))
        return call


def _length(rng: random.Random, median: int, ended_by: str) -> int:
    """Return the number of turns: few if the conversation fails at its start."""
    if ended_by.startswith("configuration_endpoint"):
        return 0
    if ended_by in ("user_canceled", "user_validation_failed"):
        return 1
    return max(2, min(round(_around(rng, median, 0.6)), median * _LONGEST_TURNS))


def _around(rng: random.Random, median: float, sigma: float) -> float:
    """Draw from a log-normal distribution with this median, which models human and machine delays."""
    return rng.lognormvariate(math.log(median), sigma)


def _pick(rng: random.Random, mix: Mapping[T, float]) -> T:
    return rng.choices(list(mix), weights=list(mix.values()))[0]


def _id(prefix: str, rng: random.Random) -> str:
    return f"{prefix}_{uuid.UUID(int=rng.getrandbits(128), version=4)}"
