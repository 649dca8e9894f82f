"""Fuzzing what strangers and half-written files can say. ``python -m tests.fuzz`` runs it, see there.

A target is a module in this package with a function ``check(data: bytes) -> None`` that raises on a defect, and a
folder of the same name in ``corpus`` with inputs to begin with. `tests/unit/test_fuzz.py` tries each for a moment.
"""

from importlib import import_module
from pathlib import Path
from typing import Final, Protocol

FOLDER: Final = Path(__file__).parent
CORPUS: Final = FOLDER / "corpus"
NAMES: Final = tuple(sorted(folder.name for folder in CORPUS.iterdir()))


class Check(Protocol):
    def __call__(self, data: bytes) -> None: ...


def target(name: str) -> Check:
    """The check of a target. ModuleNotFoundError for one that there is not."""
    check: Check = import_module(f"{__name__}.{name}").check
    return check


def corpus(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
