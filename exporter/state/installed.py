"""Edge: whether PostgreSQL can be used at all: its library is there, and the settings are well-formed."""

import re
from pathlib import Path
from typing import Final

from ..errors import ConfigError

_FORM: Final = re.compile(r"postgres(ql)?://[^\s#]+")


def check_postgres(url: str, password_file: Path | None) -> None:
    """Check the library, which only the extra ``postgres`` installs, the URL and the password file.

    Connects to nothing. Raises: ConfigError, without a password in its text.
    """
    if not _FORM.fullmatch(url):  # a # would end the URL in log lines, which show no user, but not for libpq
        raise ConfigError("--state.url", "must be postgresql://USER@HOST:PORT/DATABASE, with # written as %23")
    try:
        from . import postgres
    except ImportError as missing:
        what = "psycopg" if isinstance(missing, ModuleNotFoundError) else "libpq"
        raise ConfigError(
            "--state.url", f'{what} is not installed: pip install "phonic-exporter[postgres]"'
        ) from None
    postgres.check(postgres.Server(url=url, password_file=password_file))
