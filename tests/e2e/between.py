"""Small HTTP peers of real servers: a proxy that fixes the format of a scrape, a webhook for notifications."""

import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import attrs
import httpx
import trio

from tests.servers import rude_server


@contextlib.asynccontextmanager
async def pinned(url: str, accept: str, http: httpx.AsyncClient) -> AsyncIterator[str]:
    """A scrape target that serves the page of ``url`` in one format, whatever format the scraper accepts."""

    async def talk(stream: trio.SocketStream) -> None:
        await _request(stream)
        page = await http.get(f"{url}/metrics", headers={"Accept": accept})
        await _respond(stream, page.headers["Content-Type"], page.content)

    async with rude_server(talk) as target:
        yield target


@attrs.define(eq=False)
class Inbox:
    """A webhook: its URL, and the notifications that Alertmanager sent to it, in order."""

    url: str
    received: list[dict[str, Any]] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(factory=trio.Event)

    def add(self, notification: dict[str, Any]) -> None:
        self.received.append(notification)
        self._more.set()
        self._more = trio.Event()

    def told(self, receiver: str, **labels: str) -> list[set[str]]:
        """Return the names of firing alerts with these labels, for each notification."""
        return [
            names
            for notification in self.received
            if notification["receiver"] == receiver
            and (
                names := {
                    alert["labels"]["alertname"]
                    for alert in notification["alerts"]
                    if alert["status"] == "firing" and labels.items() <= alert["labels"].items()
                }
            )
        ]

    async def wait(self, count: int) -> None:
        """Wait for ``count`` notifications. The caller sets the deadline."""
        while len(self.received) < count:
            await self._more.wait()


@contextlib.asynccontextmanager
async def inbox() -> AsyncIterator[Inbox]:
    """Receive notifications until the block ends."""
    box: Inbox

    async def talk(stream: trio.SocketStream) -> None:
        box.add(json.loads(await _request(stream)))
        await _respond(stream, "text/plain", b"")

    async with rude_server(talk) as url:
        box = Inbox(url)
        yield box


async def _request(stream: trio.SocketStream) -> bytes:
    """Return the body of one request."""
    head, body = b"", b""
    while not body and b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    head, _, body = head.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while len(body) < int(length[1] if length else 0):
        body += await stream.receive_some()
    return body


async def _respond(stream: trio.SocketStream, content_type: str, body: bytes) -> None:
    head = (
        "HTTP/1.1 200 OK",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "\r\n",
    )
    await stream.send_all("\r\n".join(head).encode() + body)
    await stream.aclose()
