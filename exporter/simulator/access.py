"""State: who may ask the simulated Phonic for what: one API key, and the session tokens minted with it."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

_SHORTEST_S: Final = 60
_LONGEST_S: Final = 3600
_USUAL_S: Final = 300


class BadTokenRequest(Exception):
    """A request for a session token that fails validation; ``problems`` maps parameter to reason."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("invalid session token request")
        self.problems = problems


@attrs.frozen(kw_only=True)
class Token:
    """A session token; ``conversations`` is None when it reads every conversation."""

    text: str
    expires_at: float
    conversations: frozenset[str] | None


class Access:
    """Judges credentials. Lives on the trio thread."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._tokens: dict[str, Token] = {}

    def is_api_key(self, text: str | None) -> bool:
        return text is not None and secrets.compare_digest(text.encode(), self._api_key.encode())

    def token(self, text: str | None) -> Token | None:
        """The session token with this text, unless unknown or expired."""
        token = self._tokens.get(text or "")
        return token if token is not None and trio.current_time() < token.expires_at else None

    def mint(self, request: object) -> tuple[Token, int]:
        """A new session token and its lifetime in seconds, from the decoded body of a request.

        Raises BadTokenRequest.
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
    """The credential of an ``Authorization`` header; None when there is none of this scheme."""
    scheme, _, credential = (authorization or "").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else None
