"""Pure: options of a run."""

from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Options:
    """Options of a run.

    ``rounds`` replaces each case's own number of rounds; ``quick`` makes all loads small; ``folder`` is for logs
    and temporary files.
    """

    folder: Path
    quick: bool = False
    rounds: int | None = None

    def rounds_or(self, usual: int) -> int:
        """Return the number of rounds of a case whose own number is ``usual``."""
        return self.rounds or (1 if self.quick else usual)
