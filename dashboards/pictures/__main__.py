"""Wiring: draws every dashboard from a running Prometheus as HTML, and as PNG if Chromium is installed."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from .. import files, queries
from ..slo import PATH, load
from .asking import Server, Window
from .page import WIDTH, height, page

_PATIENCE_SECONDS = 60
_DRAWING_MILLISECONDS = 10_000


def window(end: float, seconds: float, variables: Mapping[str, str]) -> Window:
    """Return the window of ``seconds`` before ``end``. Variables that are not given select everything."""
    known = {**queries.EVERYTHING, **variables, "__range": f"{seconds:.0f}s"}
    return Window(start=end - seconds, end=end, variables=known)


def components() -> str:
    """Return the address of the bundle that `make components` has built, or an empty string without one."""
    folder = Path(
        os.environ.get("GRAFANA_COMPONENTS") or "~/.cache/phonic-exporter/grafana-components"
    ).expanduser()
    return folder.resolve().as_uri() if (folder / "app.js").is_file() else ""


def draw(board: Mapping[str, object], url: str, shown: Window, bundle: str = "") -> str:
    """Draw a dashboard as HTML from the Prometheus at ``url``, with the components of ``bundle``, if any."""
    with httpx.Client(timeout=30) as http:
        return page(board, shown, Server(http, url, shown), bundle)


def picture(html: Path, png: Path, pixels: int) -> None:
    """Take a screenshot of a page. Raises: FileNotFoundError without Chromium, CalledProcessError if it fails."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise FileNotFoundError("chromium")
    subprocess.run(  # noqa: S603
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--allow-file-access-from-files",  # the script of the page is in another folder
            f"--virtual-time-budget={_DRAWING_MILLISECONDS}",
            f"--window-size={WIDTH},{pixels}",
            f"--screenshot={png}",
            html.resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=_PATIENCE_SECONDS,
    )


def main(arguments: Sequence[str]) -> int:
    """Draw all dashboards into a folder."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.pictures", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--end", type=float, default=time.time(), metavar="UNIX", help="default: now")
    parser.add_argument("--seconds", type=float, default=3600.0, help="length of the window; default: 3600")
    parser.add_argument("--rate-interval", default="1m", help="what $__rate_interval stands for; default: 1m")
    parser.add_argument("--slo", type=Path, default=PATH, help="default: the shipped slo.yml")
    parser.add_argument("--job", default=".+", help="default: all jobs")
    given = parser.parse_args(arguments)
    shown = window(given.end, given.seconds, {"job": given.job, "__rate_interval": given.rate_interval})
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.render(load(given.slo)).items():
        if name.startswith("grafana/"):
            board = json.loads(text)
            html = given.folder / f"{Path(name).stem}.html"
            html.write_text(draw(board, given.prometheus, shown, components()), encoding="utf-8")
            picture(html, html.with_suffix(".png"), height(board))
            print(f"drew {html.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
