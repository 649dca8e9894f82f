"""Edge: whether the library for PostgreSQL is there, which only the extra ``postgres`` installs."""

from ..errors import ConfigError


def check_postgres() -> None:
    """Raises: ConfigError, if psycopg or the libpq that it needs cannot be imported."""
    try:
        from . import postgres  # noqa: F401
    except ImportError as missing:
        what = "psycopg" if isinstance(missing, ModuleNotFoundError) else "libpq"
        raise ConfigError(
            "--state.url", f'{what} is not installed: pip install "phonic-exporter[postgres]"'
        ) from None
