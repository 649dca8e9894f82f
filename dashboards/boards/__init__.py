"""The dashboards, one module each. Each is a function of the objectives."""

from collections.abc import Callable

from ..model import Board
from ..slo import Slo
from . import exporter, latency, live, overview, tools

BOARDS: dict[str, Callable[[Slo], Board]] = {
    "overview": overview.build,
    "latency": latency.build,
    "tools": tools.build,
    "live": live.build,
    "exporter": exporter.build,
}
