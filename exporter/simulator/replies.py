"""Edge: HTTP replies in Phonic's shapes, for REST and refused handshakes."""

import uuid

import msgspec
from starlette.responses import Response


def reply(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON reply with an ``X-Request-Id``, as every reply has."""
    return raw_reply(msgspec.json.encode(content), "application/json", status, headers)


def raw_reply(body: bytes, media_type: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a reply with any body and an ``X-Request-Id``."""
    return Response(
        body,
        status_code=status,
        media_type=media_type,
        headers={"X-Request-Id": str(uuid.uuid4()), **(headers or {})},
    )


def failure(
    status: int, message: str, *, problems: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return ``{"error": {"message": …}}``, with ``param_errors`` for invalid parameters."""
    content: dict[str, object] = {"error": {"message": message}}
    if problems is not None:
        content["param_errors"] = problems
    return reply(content, status, headers)
