"""Pure: draws the faults and the lives of the exporter from a seed."""

import random
from typing import Final

import attrs

# Transport faults of the simulator, with the range of shares from which each is drawn. The exporter waits 20 s for
# a request that is never answered, so there are few of those.
_FAULTS: Final = {
    "drop": (0.005, 0.05),
    "duplicate": (0.05, 0.3),
    "stale": (0.05, 0.3),
    "gap": (0.05, 0.5),
    "garbage": (0.02, 0.2),
    "silence": (0.02, 0.1),
    "outage": (0.1, 1.0),
    "reject-404": (0.05, 0.3),
    "reject-429": (0.05, 0.3),
    "reject-500": (0.05, 0.3),
    "reject-503": (0.05, 0.3),
    "rest-500": (0.02, 0.2),
    "rest-429": (0.01, 0.05),
    "rest-timeout": (0.002, 0.02),
    "rest-html": (0.02, 0.2),
    "rest-truncated": (0.02, 0.2),
}
_LARGEST_STEP_S: Final = (
    10 * 3600.0
)  # so that two clocks differ by less than the 24 h for which the exporter remembers ended conversations
_SHORT_DOWNTIME_S: Final = 0.5


@attrs.frozen
class Disturbance:
    """After ``after_s`` seconds these faults replace the present ones; None drops all sockets instead."""

    after_s: float
    faults: tuple[str, ...] | None


@attrs.frozen(kw_only=True)
class Life:
    """One process of the exporter.

    ``clock`` is a list of (seconds after the start, error of the clock in seconds). ``stillborn_s``: kill the
    process this long after its start, before anything else; None: let it live. ``is_killed``: end it by SIGKILL,
    else by SIGTERM, ``linger_s`` seconds after everything is ready for that. ``is_stopped_first``: SIGSTOP it
    before, for the downtime. ``downtime_s`` is the time until the next life.
    """

    clock: tuple[tuple[float, float], ...]
    stillborn_s: float | None
    disturbances: tuple[Disturbance, ...]
    is_killed: bool
    is_stopped_first: bool
    linger_s: float
    downtime_s: float


def lives(seed: int, *, kills: int, seconds: float, long_downtimes: int, long_downtime_s: float) -> list[Life]:
    """Return all lives except the last one, which has no faults. They last about ``seconds`` seconds.

    There is one SIGTERM for every four kills. The long downtimes follow kills.
    """
    rng = random.Random(f"soak/{seed}")
    is_killed = [True] * kills + [False] * -(-kills // 4)
    rng.shuffle(is_killed)
    killed = [number for number, each in enumerate(is_killed) if each]
    stillborn = set(rng.sample([each for each in killed if each], k=kills // 4))  # the first process must start
    alive = max(1, len(is_killed) - len(stillborn))
    others = [number for number in killed if number not in stillborn]
    long = set(rng.sample(others, k=min(long_downtimes, len(others))))
    lived_s = max(
        1.0, (seconds - long_downtimes * long_downtime_s) / alive - 2.5
    )  # minus start, hold and downtime
    return [
        Life(
            clock=() if number == 0 else _clock(rng),  # the first start determines what is history
            stillborn_s=rng.uniform(0.05, 2.0) if number in stillborn else None,
            disturbances=_disturbances(rng, lived_s),
            is_killed=each,
            is_stopped_first=number % 3 == 2,
            linger_s=rng.uniform(0, 0.6),
            downtime_s=long_downtime_s * rng.uniform(0.8, 1.2)
            if number in long
            else rng.uniform(0, _SHORT_DOWNTIME_S),
        )
        for number, each in enumerate(is_killed)
    ]


def _clock(rng: random.Random) -> tuple[tuple[float, float], ...]:
    if rng.random() < 0.4:
        return ()
    moments = sorted({0.0, *(rng.uniform(0, 10) for _ in range(rng.randrange(3)))})
    return tuple(
        (moment, rng.choice((-1, 1)) * rng.choice((2, 120, 3600, _LARGEST_STEP_S)) * rng.random())
        for moment in moments
    )


def _disturbances(rng: random.Random, lived_s: float) -> tuple[Disturbance, ...]:
    """Return a few disturbances, the last one at the end of the life: it affects the kill and the next start."""
    count = rng.randint(1, 4)
    return tuple(
        Disturbance(
            lived_s * rng.uniform(0.5, 1.5) / count,
            None if rng.random() < 0.25 else tuple(f"{kind}={_share(rng, kind):.4f}" for kind in _kinds(rng)),
        )
        for _ in range(count)
    )


def _kinds(rng: random.Random) -> list[str]:
    return rng.sample(list(_FAULTS), k=rng.randint(0, 5))


def _share(rng: random.Random, kind: str) -> float:
    lowest, highest = _FAULTS[kind]
    return rng.uniform(lowest, highest)
