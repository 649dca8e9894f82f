"""State: the credentials of the simulated Phonic: one API key, and the session tokens created with it."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

_SHORTEST_S: Final = 60
_LONGEST_S: Final = 3600
_USUAL_S: Final = 300


class BadTokenRequest(Exception):
    """An invalid request for a session token; ``problems`` maps parameters to reasons."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("invalid session token request")
        self.problems = problems


@attrs.frozen(kw_only=True)
class Token:
    """A session token. ``conversations`` are the ids that it may read; None means all."""

    text: str
    expires_at: float
    conversations: frozenset[str] | None


class Access:
    """Checks credentials. Used on the trio thread only."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._tokens: dict[str, Token] = {}

    def is_api_key(self, text: str | None) -> bool:
        return text is not None and secrets.compare_digest(text.encode(), self._api_key.encode())

    def token(self, text: str | None) -> Token | None:
        """Return the session token with this text, or None if it is unknown or expired."""
        token = self._tokens.get(text or "")
        return token if token is not None and trio.current_time() < token.expires_at else None

    def mint(self, request: object) -> tuple[Token, int]:
        """Create a session token; return it with its lifetime in seconds.

        ``request`` is the decoded JSON body.

        Raises: BadTokenRequest.
        """
        body: Mapping[str, Any] = request if isinstance(request, dict) else {}
        seconds, conversations = body.get("ttl_seconds", _USUAL_S), body.get("conversation_ids")
        problems = {}
        if type(seconds) is not int or not _SHORTEST_S <= seconds <= _LONGEST_S:
            problems["ttl_seconds"] = f"Must be an integer from {_SHORTEST_S} to {_LONGEST_S}"
        if conversations is not None and not (
            isinstance(conversations, list) and all(isinstance(each, str) for each in conversations)
        ):
            problems["conversation_ids"] = "Must be an array of strings"
        if not isinstance(request, dict):
            problems["body"] = "Must be an object"
        if problems:
            raise BadTokenRequest(problems)
        token = Token(
            text=f"ph_session_{secrets.token_urlsafe(24)}",
            expires_at=trio.current_time() + seconds,
            conversations=None if conversations is None else frozenset(conversations),
        )
        self._tokens[token.text] = token
        return token, seconds


def bearer(authorization: str | None) -> str | None:
    """Return the credential of an ``Authorization`` header with the Bearer scheme, or None."""
    scheme, _, credential = (authorization or "").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else None
