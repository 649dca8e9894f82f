"""Wiring: ``phonic-exporter dashboards export``: writes the files for a Prometheus and a Grafana into a folder.

`exporter.cli` imports this module by name when the command is used, and nothing else of this package, which is
installed as ``exporter.dashboards``.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from cyclopts import App, Parameter

from exporter.errors import ConfigError

from . import files
from .slo import PATH, Slo

RUNBOOK = Path(__file__).with_name("RUNBOOK.md")
SLO_NAME = "slo.yml"
_LOOPBACK = "//localhost"

app = App(
    name="dashboards",
    help="Dashboards, rules and alerts for your own Grafana and Prometheus.",
    help_format="plaintext",
    help_formatter="plain",  # plain text, as for all other commands
    version_flags=(),
    config=(),  # these flags are not settings: no variables, no TOML file
)


@app.command
def export(
    folder: Annotated[Path, Parameter(name="DIR", help="Folder to write to; created if missing.")],
    /,
    *,
    slo: Annotated[
        Path | None, Parameter(help="Objectives and thresholds; default: DIR/slo.yml, else the shipped ones.")
    ] = None,
    job: Annotated[str | None, Parameter(help="Name of the scrape job in Prometheus.")] = None,
    runbook_url: Annotated[str | None, Parameter(help="Address of the runbook, for links in alerts.")] = None,
    grafana_url: Annotated[str | None, Parameter(help="Address of your Grafana, for links in alerts.")] = None,
    exporter_url: Annotated[
        str | None, Parameter(help="Address of the exporter's pages, for links to conversations.")
    ] = None,
    check: Annotated[
        bool,
        Parameter(negative=(), help="Write nothing; list the files in DIR that differ, and exit 1 if any does."),
    ] = False,
) -> int:
    """Write dashboards (classic and v2), rules, alerts, the runbook, examples for Prometheus and Alertmanager.

    A slo.yml that exists in DIR is read and kept: edit it, and export again.
    """
    given = {
        "job": job,
        "links.runbook": runbook_url,
        "links.grafana": grafana_url,
        "links.exporter": exporter_url,
    }
    text = _read(slo, folder)
    chosen = _chosen(text, {key: value for key, value in given.items() if value is not None})
    wanted = content(chosen, text)
    changed = [name for name, new in wanted.items() if _present(folder / name) != new]
    if check:
        _say(*(f"{'differs' if (folder / name).exists() else 'missing'}: {folder / name}" for name in changed))
        return 1 if changed else 0
    try:
        for name in changed:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8")
    except OSError as exc:
        raise ConfigError("DIR", f"cannot write {str(exc.filename)!r}: {exc.strerror}") from exc
    _say(*(f"wrote {folder / name}" for name in changed))
    for flag, link in (
        ("--grafana-url", chosen.links.grafana),
        ("--runbook-url", chosen.links.runbook),
        ("--exporter-url", chosen.links.exporter),
    ):
        if _LOOPBACK in link:
            _say(f"note: links in alerts lead to {link}; change that with {flag}")
    return 0


def content(slo: Slo, text: str) -> dict[str, str]:
    """Return every file by its path below the folder; ``text`` is the content of slo.yml."""
    return {SLO_NAME: text, "RUNBOOK.md": RUNBOOK.read_text(encoding="utf-8"), **files.shipped(slo)}


def _read(slo: Path | None, folder: Path) -> str:
    own = folder / SLO_NAME
    path = slo or (own if own.exists() else PATH)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError("--slo", f"cannot read {str(path)!r}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("--slo", f"{str(path)!r} is not UTF-8") from exc


def _chosen(text: str, given: Mapping[str, str]) -> Slo:
    """Parse slo.yml, with some values replaced by flags. The same rules apply to both."""
    slo = Slo.parse(text)
    if not given:
        return slo
    raw = yaml.safe_load(text)
    for key, value in given.items():
        table, _, name = key.rpartition(".")
        (raw[table] if table else raw)[name] = value.rstrip("/") if table else value
    return Slo.parse(yaml.safe_dump(raw))


def _present(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()
