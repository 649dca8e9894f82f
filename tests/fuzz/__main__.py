"""``python -m tests.fuzz [TARGET] --seconds N``: lets atheris search for inputs that break one target or all.

Needs atheris (``make fuzz`` installs it). Interesting inputs are kept in ``.fuzz/TARGET`` for the next run, inputs
that break a target in ``.fuzz/TARGET-crash-*``; copy them to ``corpus`` as regression tests. Exits with 1 if a
target broke.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz import CORPUS, NAMES, target

FOUND = Path(".fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    given = parser.parse_args()
    if given.target:
        fuzz(given.target, given.seconds)
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={given.seconds}"]
    codes = [subprocess.run([*command, name], check=False).returncode for name in NAMES]
    return int(any(codes))


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target. Ends the process, as libFuzzer does."""
    import atheris  # an optional dependency without wheels for some platforms

    kept = FOUND / name
    kept.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["exporter", "h11", "yaml"]):
        check = target(name)
    options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1000", "-print_final_stats=1"]
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix={FOUND}/{name}-", str(kept), str(CORPUS / name)], check
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
