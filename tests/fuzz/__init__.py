"""Fuzz tests of untrusted input. ``python -m tests.fuzz`` runs them.

A target is a module of this package with a function ``check(data: bytes) -> None`` that raises on a defect, and a
folder of the same name in ``corpus`` with initial inputs. `tests/unit/test_fuzz.py` runs each target briefly.
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
    """Return the check of a target. Raises: ModuleNotFoundError."""
    check: Check = import_module(f"{__name__}.{name}").check
    return check


def corpus(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
