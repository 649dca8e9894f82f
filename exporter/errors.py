"""Pure: the errors that a user can mend, each shown as one line without a traceback."""

from typing import ClassVar


class ConfigError(Exception):
    """A setting that cannot be used.

    ``str()`` is the whole line shown to the user, so neither part may quote a secret.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(f"{flag}: {reason}")
        self.flag = flag
        self.reason = reason


class StateUnavailable(ConfigError):
    """A state file that is there but cannot be read now; a restart may well succeed."""

    exit_code: ClassVar[int] = 1
