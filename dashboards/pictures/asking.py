"""Edge: queries a Prometheus over HTTP for the data of panels in one window of time."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import httpx

Results = list[dict[str, Any]]
"""Series as the API gives them: ``metric`` and ``values``, ``value`` or ``exemplars``."""

POINTS = 240


@attrs.frozen(kw_only=True)
class Window:
    """A window of time in Unix seconds, and the values of the dashboard's variables."""

    start: float
    end: float
    variables: Mapping[str, str]

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def step(self) -> float:
        """Seconds between two points of a line."""
        return max(1.0, self.seconds / POINTS)


class Ask(Protocol):
    """Answers queries over one window."""

    def over_time(self, expr: str) -> Results:
        """Series with ``values``."""
        ...

    def at_the_end(self, expr: str) -> Results:
        """Series with ``value``."""
        ...

    def exemplars(self, expr: str) -> Results:
        """Series with ``exemplars``."""
        ...


@attrs.frozen
class Server:
    """A Prometheus. Raises: httpx.HTTPError without an answer, ValueError with its message for a bad query."""

    http: httpx.Client
    url: str
    window: Window

    def over_time(self, expr: str) -> Results:
        window = self.window
        found = self._get("query_range", query=expr, start=window.start, end=window.end, step=window.step)
        return list(found["result"])

    def at_the_end(self, expr: str) -> Results:
        return list(self._get("query", query=expr, time=self.window.end)["result"])

    def exemplars(self, expr: str) -> Results:
        return list(self._get("query_exemplars", query=expr, start=self.window.start, end=self.window.end))

    def _get(self, path: str, **query: str | float) -> Any:
        answer = self.http.get(f"{self.url}/api/v1/{path}", params=query).json()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]
