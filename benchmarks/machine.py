"""Edge: describes the machine, the system and the versions of the libraries that a result was measured with."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .processes import CLIENT_CORE, SERVER_CORE

_LIBRARIES = (
    "trio trio-websocket wsproto msgspec attrs prometheus-client hypercorn starlette httpx structlog".split()
)


def describe() -> dict[str, str]:
    """Return what a reader needs to interpret the results, by name."""
    processor = _first("/proc/cpuinfo", r"model name\s*: (.+)")
    memory = int(_first("/proc/meminfo", r"MemTotal:\s*(\d+)"))
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{processor}, {os.cpu_count()} cores",
        "memory": f"{memory / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "measured on core": f"{CLIENT_CORE}, load on core {SERVER_CORE}",
        "Python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def _first(path: str, pattern: str) -> str:
    found = re.search(pattern, Path(path).read_text())
    return found.group(1) if found else "0"
