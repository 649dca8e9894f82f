"""Pure: how thorough a run is."""

from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Options:
    """``rounds`` as asked for, else each case's own number; ``quick`` makes everything small.

    ``folder`` is for logs and other files of the moment.
    """

    folder: Path
    quick: bool = False
    rounds: int | None = None

    def rounds_or(self, usual: int) -> int:
        """The number of rounds of a case that usually has ``usual``."""
        return self.rounds or (1 if self.quick else usual)
