"""Pure: the generated parts of ``configuration.md``, from the settings and what is said about them here."""

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from exporter.metrics.catalog import RESPONSE_BUCKETS, Scope, series_of
from exporter.settings import DoctorSettings, FlagRow, RecordSettings, flag_table
from exporter.simulator.faults import PLANNED, TRANSPORT
from exporter.simulator.settings import SimulatorSettings

from .markdown import prose, slug, table, wrapped


@attrs.frozen
class Note:
    """What the page says about a flag beside its own row.

    ``value`` is the kind of value in words, where the row does not tell it; ``text`` is Markdown; ``example`` is a
    piece of a TOML file.
    """

    value: str = ""
    text: str = ""
    example: str = ""


_SECONDS = "seconds"

NOTES: Final[Mapping[str, Note]] = {
    "phonic.base-url": Note(
        "URL",
        "A `/v1` and an endpoint at its end are taken off, so an address from Phonic's documentation can be "
        "pasted. No user, password, query or fragment is allowed in it.",
    ),
    "phonic.allow-http": Note(text="Loopback addresses need no permission."),
    "phonic.api-key-file": Note(
        text="The file holds the key and at most one line end. While Phonic refuses the key, the file is looked "
        "at each second, so a replaced key takes effect by itself. [Credentials](#credentials) compares the ways.",
        example='[phonic]\napi-key-file = "/run/secrets/phonic-api-key"\n',
    ),
    "phonic.api-key-dir": Note(
        "folder",
        "One exporter for several workspaces. The name of a file is the value of the label `workspace`: up to "
        "100 letters, digits, `.`, `_` or `-`. Files whose names begin with a dot are left out, so a mounted "
        "secret of Kubernetes works as it is. Instead of the other ways to give a key. See "
        "[Several workspaces](#several-workspaces).",
        example='[phonic]\napi-key-dir = "/etc/phonic-exporter/api-keys"\n',
    ),
    "phonic.session-token-file": Note(text="Cannot be combined with an API key."),
    "phonic.ca-file": Note(
        text="To trust a private authority in addition to the system's, put both into one file. See "
        "[operations.md](operations.md#proxies-and-private-authorities)."
    ),
    "phonic.requests-per-second": Note(
        "requests a second", "[operations.md](operations.md#rest-requests) says how many a workspace needs."
    ),
    "watch.conversation": Note(
        "list of ids",
        "An id is `conv_` and up to 100 letters, digits, `_` or `-`. With "
        "[several workspaces](#several-workspaces) it follows the name of one: `acme/conv_…`.",
        '[watch]\nconversation = ["conv_03519c07-8baa-4120-b0a3-a78a810b9e97"]\n',
    ),
    "watch.file": Note(
        text="With [several workspaces](#several-workspaces) each id follows the name of one: `acme/conv_…`. "
        "Blank lines and what follows a `#` are left out. Entries that are no ids are skipped and counted "
        "in the log line `watch file read`. Removing an id ends its watcher. At most 16 MiB.",
        example='[watch]\nfile = "/etc/phonic-exporter/conversations"\n',
    ),
    "watch.discover": Note(text="Needs an API key. Turn it off to watch only the conversations that are named."),
    "watch.project": Note("list of names", "Names, not ids. A name that no project has is a warning in the log."),
    "watch.interval": Note(
        _SECONDS,
        "A conversation that is over before a round finds it loses its timings "
        "(`phonic_exporter_conversations_lost_total`).",
    ),
    "watch.limit": Note(
        "conversations",
        "The number of files that the process may open can lower it, see "
        "[operations.md](operations.md#open-files).",
    ),
    "watch.idle-timeout": Note(_SECONDS),
    "metrics.labels": Note(
        "list of labels",
        "More labels make more label sets, and each label set has its own series. The shipped dashboards and "
        "rules group by `project` and `agent`.",
        '[metrics]\nlabels = ["project", "agent", "origin"]\n',
    ),
    "metrics.label-limit": Note("values", "0 puts all values under `__other__`."),
    "metrics.label-set-limit": Note("label sets"),
    "metrics.tool-limit": Note("tools", "0 puts all tools under `__other__`."),
    "metrics.per-conversation-limit": Note(
        "conversations", f"Each has {series_of(Scope.LIVE)} series for as long as it is live."
    ),
    "metrics.hold-new-series": Note(
        _SECONDS, "[semantics.md](semantics.md#15-new-series) says which series are held back, and for how long."
    ),
    "metrics.slo-response": Note(
        "seconds, one of " + ", ".join(f"{bound:g}" for bound in RESPONSE_BUCKETS),
        "Exposed as `phonic_exporter_slo_response_seconds`, so that dashboards can draw it. The threshold of the "
        "alerts is in [`dashboards/slo.yml`](../dashboards/slo.yml); keep both the same.",
    ),
    "state.file": Note(
        "file, or empty",
        "The default is below `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`, else below "
        "`$XDG_STATE_HOME` or `~/.local/state` on Linux. See [operations.md](operations.md#the-state-file).",
        '[state]\nfile = "/var/lib/phonic-exporter/phonic-exporter.db"\n',
    ),
    "state.interval": Note(_SECONDS, "A scrape has its own write and does not wait for this one."),
    "state.url": Note(
        "URL, or empty",
        "Instead of a state file. The other processes with the same URL share its shards.",
        '[state]\nurl = "postgresql://exporter@db.internal/exporter"\n',
    ),
    "shard.count": Note(
        "shards",
        "Each needs a process; further ones stand by. All processes should have the same number: the one that "
        "starts last decides.",
    ),
    "shard.lease": Note(
        _SECONDS, "A short lease means a short gap when a process dies, and gives way in a short outage."
    ),
    "history.conversations": Note(
        "conversations", "0 turns the memory off, and what was remembered is forgotten."
    ),
    "history.hours": Note("hours"),
    "web.listen-address": Note(
        "list of addresses",
        "`host:port`, `:port`, `[address]:port` of IPv6, or `vsock://:port` on Linux. Port 0 takes a free port, "
        "which the log line `serving` tells.",
        '[web]\nlisten-address = ["127.0.0.1:10058", "[::1]:10058"]\n',
    ),
    "web.systemd-socket": Note(text="For a `.socket` unit that belongs to the service."),
    "web.telemetry-path": Note(
        "path", "Must not be the path of another page (`/-`, `/api`, `/livez`, `/readyz`)."
    ),
    "web.external-url": Note(
        "URL or path",
        "The [push API](operations.md#push-api) accepts its host. See "
        "[operations.md](operations.md#behind-a-reverse-proxy).",
        '[web]\nexternal-url = "https://example.com/phonic"\n',
    ),
    "web.route-prefix": Note(
        "path",
        "`/` where the reverse proxy takes the prefix away. The health checks answer without the prefix too.",
    ),
    "web.config.file": Note(text="See [The web configuration file](#the-web-configuration-file)."),
    "web.disable-exporter-metrics": Note(
        text="Kept are `phonic_exporter_build_info` and `phonic_exporter_slo_response_seconds`. Alerts and the "
        "dashboard about the exporter then have no data."
    ),
    "web.max-requests": Note("scrapes"),
    "web.enable-push-api": Note(
        text="See [operations.md](operations.md#push-api) and [SECURITY.md](../SECURITY.md)."
    ),
    "log.level": Note(
        text="At `debug`, exceptions are logged with where they happened. No level logs what a caller said, or a "
        "credential."
    ),
    "log.format": Note(text="Logs go to stderr."),
    "config.file": Note(text="Cannot be a key of the file itself."),
}

GROUPS: Final[Mapping[str, tuple[str, str]]] = {
    "phonic": ("Phonic", "Where Phonic's API is, and how the exporter identifies itself."),
    "watch": ("What to watch", "Which conversations are watched. At least one source must be on."),
    "metrics": (
        "Metrics",
        "Labels and their limits. The [series budget](operations.md#series) follows from them.",
    ),
    "state": ("State", "The file that makes counters go on after a restart."),
    "shard": (
        "Shards",
        "How several processes share the conversations, with the state in PostgreSQL. See "
        "[operations.md](operations.md).",
    ),
    "history": (
        "History",
        "How many conversations that are over the pages show turn by turn. They are in the state file, less than "
        "1,000 bytes for a call of 20 turns; without a state file none is remembered.",
    ),
    "web": ("Web", "Where and how pages are served."),
    "log": ("Log", "What is logged."),
    "config": ("Configuration file", "Where the other settings may stand."),
}


def parts() -> dict[str, str]:
    """The generated parts of the page by the names of their markers.

    Raises ValueError for a note without a flag, or a group without a title.
    """
    rows = flag_table()
    unknown = NOTES.keys() - {row.key for row in rows}
    if unknown:
        raise ValueError(f"docs/configuration.py has notes on flags that do not exist: {sorted(unknown)}")
    simulator = flag_table(SimulatorSettings, prefix="simulator")
    return {
        "index": _index(rows),
        "flags": "".join(_groups(rows)),
        "simulator": _overview(simulator),
        "faults": _faults(),
        "doctor": _overview(own_flags(DoctorSettings)),
        "record": _overview(own_flags(RecordSettings)),
    }


def _faults() -> str:
    """The kinds of faults, those of conversations before those of how conversations are transmitted."""
    rows = [
        (f"`{kind}`", what, meaning)
        for what, kinds in (("calls", PLANNED), ("transport", TRANSPORT))
        for kind, meaning in kinds.items()
    ]
    return table(("kind", "of", "value"), rows)


def own_flags(settings: type) -> list[FlagRow]:
    """The flags of a command that the exporter itself does not have."""
    common = {row.key for row in flag_table()}
    return [row for row in flag_table(settings) if row.key not in common]


def _index(rows: list[FlagRow]) -> str:
    lines = [
        (f"[{title}](#{slug(title)})", " ".join(f"[`{row.flag}`](#{slug(row.flag)})" for row in members))
        for group, (title, _) in GROUPS.items()
        if (members := [row for row in rows if row.key.partition(".")[0] == group])
    ]
    return table(("section", "flags"), lines)


def _groups(rows: list[FlagRow]) -> Iterator[str]:
    group = ""
    for row in rows:
        if group != (group := row.key.partition(".")[0]):
            if group not in GROUPS:
                raise ValueError(f"docs/configuration.py has no title for the group {group!r}")
            title, about = GROUPS[group]
            yield f"## {title}\n\n{wrapped(about)}\n\n"
        yield _entry(row, NOTES.get(row.key, Note()))


def _entry(row: FlagRow, note: Note) -> str:
    facts = table(
        ("variable", "TOML", "value", "default"),
        [(f"`{row.variable}`", _toml_key(row), _value(row, note), _default(row))],
    )
    entry = f"### `{row.flag}`\n\n{wrapped(prose(row.meaning))}\n\n{facts}\n"
    if note.text:
        entry += f"{wrapped(prose(note.text))}\n\n"
    if note.example:
        entry += f"```toml\n{note.example}```\n\n"
    return entry


def _toml_key(row: FlagRow) -> str:
    group, _, name = row.key.rpartition(".")
    return "" if row.key == "config.file" else f"`[{group}]` `{name}`"


def _default(row: FlagRow) -> str:
    """The default: one that is computed is described in words."""
    if not row.default:
        return "none"
    return prose(row.default) if " " in row.default else f"`{row.default}`"


def _value(row: FlagRow, note: Note) -> str:
    words = {"": "on or off", "NUMBER": "number", "FILE": "file", "TEXT": "text"}
    value = note.value or words.get(row.takes) or " or ".join(f"`{word}`" for word in row.takes.split("|"))
    if row.allowed is not None:
        low, high = row.allowed
        value += f", {low:g} to {high:.12g}"
    return value


def _overview(rows: list[FlagRow]) -> str:
    lines = [(f"`{row.flag}`", _default(row), prose(row.meaning)) for row in rows]
    return table(("flag", "default", "meaning"), lines)
