"""Pure: the error that a user can mend, shown as one line with exit code 2."""


class ConfigError(Exception):
    """A setting that cannot be used.

    ``str()`` is the whole line shown to the user, so neither part may quote a secret.
    """

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(f"{flag}: {reason}")
        self.flag = flag
        self.reason = reason
