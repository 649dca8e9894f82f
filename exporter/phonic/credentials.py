"""Edge: the one credential sent to Phonic: where it is read from and how it is kept out of logs.

An API key is sent as a Bearer header, a session token as a query parameter. Phonic refuses a request with both, so
exactly one of them exists. The value is reachable only through ``headers`` and ``query``: ``repr``, ``str`` and
all error texts are masked.
"""

import codecs
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from ..errors import ConfigError

API_KEY_VARIABLE = "PHONIC_API_KEY"

_MAX_BYTES = 8192  # of a file; no credential is longer, and a wrong path may name a device or a log
_VALID = re.compile(r"[\x21-\x7e]+")  # characters that an HTTP header value can hold without quoting
_SECRETS = re.compile(r"(?i)(ph_|session_token=|bearer\s+)[^\s&\"'<>]+")


@attrs.frozen
class ApiKey:
    """An API key, which may read the REST API and complete live objects."""

    _value: str = attrs.field(repr=lambda _: "***")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._value}"}

    @property
    def query(self) -> dict[str, str]:
        return {}


@attrs.frozen
class SessionToken:
    """A session token, which may read reduced live objects only: no discovery, no REST."""

    _value: str = attrs.field(repr=lambda _: "***")

    @property
    def headers(self) -> dict[str, str]:
        return {}

    @property
    def query(self) -> dict[str, str]:
        return {"session_token": self._value}


Credential = ApiKey | SessionToken


class Credentials:
    """The credential in use; one from a file can be read again after a 401.

    ``is_taken``: whether somebody else uses a credential, which `reload` then does not.
    """

    def __init__(self, credential: Credential, *, file: Path | None = None) -> None:
        self.is_taken: Callable[[Credential], bool] = _never
        self._credential = credential
        self._file = file

    def current(self) -> Credential:
        return self._credential

    def reload(self) -> bool:
        """Read the file again; True if the credential has changed. Blocks on a small read.

        While the file is missing or unusable, as in the middle of a rotation, the old credential stays in use.
        """
        fresh = self.fresh()
        return not self.is_taken(fresh) and self.replace(fresh)

    def fresh(self) -> Credential:
        """Return what the file holds now, the credential in use if that is none. Blocks on a small read."""
        if self._file is None:
            return self._credential
        try:
            return type(self._credential)(read_key(self._file, flag=""))
        except ConfigError:
            return self._credential

    def replace(self, fresh: Credential) -> bool:
        """Use this credential from now on; True if it is another one."""
        changed = fresh != self._credential
        self._credential = fresh
        return changed


def _never(_: Credential) -> bool:
    return False


def load(*, api_key_file: Path | None, session_token_file: Path | None, environ: Mapping[str, str]) -> Credentials:
    """Read the credential from the given file, else from the environment variable.

    Raises: ConfigError for no credential, for a session token beside an API key, and for a value that no HTTP
    request could carry.
    """
    # Container tools pass an unset variable as an empty one.
    key = environ.get(API_KEY_VARIABLE, "")
    if session_token_file is not None and (api_key_file is not None or key):
        other = "--phonic.api-key-file" if api_key_file is not None else API_KEY_VARIABLE
        raise ConfigError("--phonic.session-token-file", f"cannot be combined with {other}; give one of them")
    if session_token_file is not None:
        token = read_key(session_token_file, flag="--phonic.session-token-file")
        return Credentials(SessionToken(token), file=session_token_file)
    if api_key_file is not None:
        return Credentials(ApiKey(read_key(api_key_file, flag="--phonic.api-key-file")), file=api_key_file)
    if key:
        return Credentials(ApiKey(_checked(key, flag=API_KEY_VARIABLE)))
    raise ConfigError(
        "--phonic.api-key-file",
        f"no credential: set {API_KEY_VARIABLE}, or give this flag or --phonic.session-token-file",
    )


def redact(text: str) -> str:
    """Mask everything in ``text`` that looks like a Phonic credential; for text that quotes foreign input."""
    return _SECRETS.sub(r"\1***", text)


def read_key(file: Path, *, flag: str) -> str:
    """Read a credential from a file (blocking). Raises: ConfigError for ``flag``, which quotes no content."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no such path"
        raise ConfigError(flag, f"cannot read {str(file)!r}: {reason}") from exc
    if len(content) > _MAX_BYTES:
        raise ConfigError(flag, f"{str(file)!r} is longer than {_MAX_BYTES} bytes, so it holds no credential")
    content = content.removeprefix(codecs.BOM_UTF8)
    return _checked(content.decode("latin-1").removesuffix("\n").removesuffix("\r"), flag=flag)


def _checked(value: str, *, flag: str) -> str:
    if not value:
        raise ConfigError(flag, "the credential is empty")
    if not _VALID.fullmatch(value):
        raise ConfigError(flag, "the credential holds a space, a line break or a character that is not ASCII")
    return value
