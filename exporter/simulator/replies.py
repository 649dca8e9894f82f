"""Edge: HTTP replies in Phonic's shapes, used by REST and by refused handshakes alike."""

import uuid

import msgspec
from starlette.responses import Response


def reply(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON with the ``X-Request-Id`` that every reply has."""
    return raw_reply(msgspec.json.encode(content), "application/json", status, headers)


def raw_reply(body: bytes, media_type: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Any body, with the ``X-Request-Id`` that every reply has."""
    return Response(
        body,
        status_code=status,
        media_type=media_type,
        headers={"X-Request-Id": str(uuid.uuid4()), **(headers or {})},
    )


def failure(
    status: int, message: str, *, problems: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> Response:
    """``{"error": {"message": …}}``, with ``param_errors`` where single parameters are wrong."""
    content: dict[str, object] = {"error": {"message": message}}
    if problems is not None:
        content["param_errors"] = problems
    return reply(content, status, headers)
