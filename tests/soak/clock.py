"""Wiring: the exporter with a clock that is wrong, for `tests.soak.harness` to start.

``python -m tests.soak.clock '[[0, 3600], [4, -20]]' '' <arguments>``: an hour ahead at first, 20 s behind after 4
s. The second argument is Python that runs first: a mutation that the harness must find.
"""

import json
import sys
import time


def main() -> None:
    steps: list[tuple[float, float]] = json.loads(sys.argv.pop(1))
    mutation = sys.argv.pop(1)
    right, started = time.time, time.monotonic()

    def wrong() -> float:
        age = time.monotonic() - started
        return right() + next((offset for since, offset in reversed(steps) if age >= since), 0.0)

    time.time = wrong
    from exporter.cli import main as phonic_exporter  # after the step, so that nobody has the right clock

    exec(mutation, {})  # noqa: S102  # a test's own words
    phonic_exporter()


if __name__ == "__main__":
    main()
