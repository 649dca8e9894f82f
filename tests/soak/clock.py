"""Wiring: runs the exporter with a wrong clock, for `tests.soak.harness`.

``python -m tests.soak.clock '[[0, 3600], [4, -20]]' '' <arguments>``: the clock is an hour ahead, and after 4 s 20
s behind. The second argument is Python that runs first: a mutation that the harness must detect.
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
    from exporter.cli import main as phonic_exporter  # after the step, so that no module keeps the right clock

    exec(mutation, {})  # noqa: S102  # code of the test
    phonic_exporter()


if __name__ == "__main__":
    main()
