"""Pure: declares every setting once (flag, variable, default, meaning), and validates them.

The attrs classes below are the only declaration: `exporter.cli` takes flags, variables, TOML keys and help texts
from them, and the documented table of flags is generated from `flag_table`. A field ``listen_address`` of the
group ``web`` is the flag ``--web.listen-address``, the variable ``PHONIC_EXPORTER_WEB_LISTEN_ADDRESS`` and the key
``listen-address`` of the TOML table ``[web]``. The classes accept any value; `resolve` and `validate` check them,
because cyclopts would show an error raised inside a class as a traceback.
"""

# ruff: noqa: RUF009  # `_setting` returns an attrs field, which the rule cannot see

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit

import attrs
import platformdirs
from cyclopts import Parameter, Token

from .counting.derive import OBJECTIVE
from .counting.labels import LABEL_CHOICES, WORKSPACE
from .errors import ConfigError, out_of_bounds, raise_all
from .metrics.catalog import RESPONSE_BUCKETS, SERIES_OF_A_TOOL, Scope, series_of
from .phonic.address import normalised
from .phonic.keys import MOST_WORKSPACES, NAME_RULE, is_reference, is_workspace_name, split_reference
from .phonic.proxies import is_loopback
from .phonic.wire import is_conversation_id

VARIABLE_PREFIX: Final = "PHONIC_EXPORTER_"
CONFIG_FILE_MEANING: Final = "TOML file with the same settings: a table for each group."


_PREFIX: Final = re.compile(r"/?|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")

# Smallest and largest allowed value. The minima leave room for tests that run faster than real conversations.
_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "phonic.requests-per-second": (0.1, 500),
    "watch.interval": (0.05, 3600),
    "watch.limit": (1, 1_000_000),
    "watch.idle-timeout": (0.1, 3600),
    "metrics.label-limit": (0, 1_000_000),
    "metrics.label-set-limit": (0, 1_000_000),
    "metrics.tool-limit": (0, 1_000_000),
    "metrics.per-conversation-limit": (0, 1_000_000),
    "metrics.hold-new-series": (0, 3600),
    "state.interval": (0.01, 3600),
    "shard.count": (1, 1000),
    "shard.lease": (0.5, 300),
    "history.conversations": (0, 1_000_000),
    "history.hours": (0.01, 24 * 366),
    "web.max-requests": (0, 1_000_000),
}


def _optional_path(_: Any, tokens: Sequence[Token]) -> Path | None:
    """Convert a path. An empty value means none, so that a flag or variable can override a file."""
    return Path(tokens[-1].value) if tokens[-1].value else None


def _without_empty(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(token.value for token in tokens if token.value)


def _comma_separated(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Convert ``a,b`` or a TOML list. An empty value is an empty list."""
    items = (item.strip() for token in tokens for item in token.value.split(","))
    return tuple(item for item in items if item)


OptionalPath = Annotated[Path | None, Parameter(converter=_optional_path, n_tokens=1)]
Repeated = Annotated[tuple[str, ...], Parameter(converter=_without_empty, n_tokens=1, show_default=False)]
CommaSeparated = Annotated[
    tuple[str, ...], Parameter(converter=_comma_separated, n_tokens=1, show_default=",".join)
]


# The default for a user without a home folder, who has no state folder. `validate` refuses it.
_NOWHERE: Final = Path("~", "phonic-exporter.db")


def default_state_file() -> Path:
    """Return the default state file: in systemd's StateDirectory= if set, else in the platform's state folder."""
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    try:
        found = Path(folder or platformdirs.user_state_path("phonic-exporter"))
    except RuntimeError:
        return _NOWHERE
    return _NOWHERE if found.parts[:1] == ("~",) else found / "phonic-exporter.db"


def _setting(default: Any, meaning: str, *, shown: str | None = None) -> Any:
    """Declare a setting. ``meaning`` is its help text; ``shown`` describes a default that is computed."""
    return attrs.field(default=default, metadata={"help": meaning, "shown": shown})


_CONVERSATION_ID = "conv_ and up to 100 letters, digits, _ or -"
_NO_CONVERSATION_ID = f"not a conversation id ({_CONVERSATION_ID})"


@attrs.frozen(kw_only=True)
class PhonicSettings:
    base_url: str = _setting(
        "https://api.phonic.ai",
        "Address of the Phonic API and its live feeds. Can also be set with the variable PHONIC_BASE_URL.",
    )
    allow_http: bool = _setting(
        False, "Allow a plain http base URL that is not loopback; the credential is then sent unencrypted."
    )
    api_key_file: OptionalPath = _setting(
        None, "File with the API key, read again after a 401. Can also be set with the variable PHONIC_API_KEY."
    )
    api_key_dir: OptionalPath = _setting(
        None,
        "Folder with a file for each workspace, named after it, that holds its API key; read again as files come, "
        "go and change.",
    )
    session_token_file: OptionalPath = _setting(
        None,
        "File with a session token, instead of an API key: no discovery, fewer labels, no data from REST.",
    )
    ca_file: OptionalPath = _setting(
        None,
        "PEM file with the certificate authorities to trust instead of the system's, for REST, live feeds and "
        "an https proxy.",
    )
    requests_per_second: float = _setting(
        50.0,
        "Most REST requests per second; Phonic allows 500. The exporter slows down for a while after a 429.",
    )


@attrs.frozen(kw_only=True)
class WatchSettings:
    conversation: Repeated = _setting((), "Conversation id to watch; repeatable.")
    file: OptionalPath = _setting(
        None, "File with one conversation id per line, or a JSON list; read again when it changes."
    )
    discover: bool | None = _setting(None, "Find live conversations over REST.", shown="on with an API key")
    project: Repeated = _setting(
        (), "Project in which to discover conversations; repeatable. Without it: all projects."
    )
    interval: float = _setting(5.0, "Seconds between two requests for the list of live conversations.")
    limit: int = _setting(5000, "Most conversations watched at the same time; more are refused and counted.")
    idle_timeout: float = _setting(
        30.0, "Seconds without a message after which a feed is pinged; without a pong in 10 s it reconnects."
    )


@attrs.frozen(kw_only=True)
class MetricsSettings:
    labels: CommaSeparated = _setting(
        ("project", "agent"), f"Labels of conversation metrics, any of: {', '.join(LABEL_CHOICES)}."
    )
    label_limit: int = _setting(
        100, "Most distinct values of one label; further values become __other__ and are counted."
    )
    label_set_limit: int = _setting(
        200,
        f"Most distinct combinations of label values, {series_of(Scope.CONVERSATIONS)} series each; "
        "further ones become __other__.",
    )
    tool_limit: int = _setting(
        50,
        f"Most distinct names of tools, {SERIES_OF_A_TOOL} series each in every label set that calls them; "
        "further ones become __other__ and are counted.",
    )
    per_conversation_limit: int = _setting(
        1000, "Most live conversations with series of their own; 0 turns these series off."
    )
    hold_new_series: float = _setting(
        30.0,
        "Seconds for which a new series is exposed as 0 before its value, so that Prometheus counts its first "
        "increase; at least the scrape interval. 0 turns this off.",
    )
    slo_response: float = _setting(OBJECTIVE, "Response time objective in seconds; must be a bucket boundary.")


@attrs.frozen(kw_only=True)
class StateSettings:
    file: OptionalPath = attrs.field(
        factory=default_state_file,
        metadata={
            "help": "State file, so that counters survive a restart. An empty value turns it off.",
            "shown": "$STATE_DIRECTORY/phonic-exporter.db, else the platform's state folder",
        },
    )
    interval: float = _setting(1.0, "Longest time in seconds between a change and its commit to the state.")
    url: str = _setting(
        "",
        "Keep the state in PostgreSQL instead, for a standby or several processes: "
        "postgresql://USER@HOST:PORT/DATABASE. Needs the extra postgres.",
    )
    password_file: OptionalPath = _setting(
        None, "File with the password for --state.url; read again at each connection."
    )


@attrs.frozen(kw_only=True)
class ShardSettings:
    count: int = _setting(
        1,
        "Number of shards that share the conversations, with --state.url; a shard beyond it takes no new ones.",
    )
    lease: float = _setting(
        5.0, "Seconds after which another process takes the shard of one that no longer writes; with --state.url."
    )


@attrs.frozen(kw_only=True)
class HistorySettings:
    conversations: int = _setting(
        2000, "Most conversations that are over and remembered turn by turn, in the state file; 0: none."
    )
    hours: float = _setting(24.0, "Hours for which they are remembered.")


@attrs.frozen(kw_only=True)
class WebSettings:
    listen_address: Annotated[Repeated, Parameter(show_default=",".join)] = _setting(
        (":10058",),
        "Address to listen on, or vsock://:PORT; repeatable. Without a host: all IPv4 and IPv6 addresses.",
    )
    systemd_socket: bool = _setting(
        False, "Listen on the sockets that systemd passes (socket activation), instead of listen addresses."
    )
    telemetry_path: str = _setting("/metrics", "Path of the metrics page.")
    external_url: str = _setting(
        "",
        "URL by which browsers reach the pages, e.g. through a reverse proxy; its path prefixes links and paths.",
    )
    route_prefix: str = _setting(
        "", "Prefix of all paths, if a proxy changes them.", shown="path of --web.external-url"
    )
    config_file: Annotated[OptionalPath, Parameter(name="config.file")] = _setting(
        None,
        "Prometheus exporter-toolkit web config (TLS, client certificates, basic auth, headers); "
        "read again when it changes.",
    )
    disable_exporter_metrics: bool = _setting(
        False, "Omit metrics about the exporter itself: process_* and phonic_exporter_*, except its version."
    )
    max_requests: int = _setting(40, "Most scrapes at the same time; more get a 503. 0: no limit.")
    enable_push_api: bool = _setting(
        False, "Accept PUT and DELETE of /api/v1/conversations/{id}, which start and stop a watcher."
    )


_LogLevel = Literal["debug", "info", "warn", "error"]
_LOG_LEVEL_MEANING = "Lowest severity to log."


@attrs.frozen
class LogSettings:
    level: _LogLevel = _setting("info", _LOG_LEVEL_MEANING)
    format: Literal["logfmt", "json"] = _setting("logfmt", "Write each event as a logfmt line or a JSON object.")


@attrs.frozen(kw_only=True)
class QuietLogSettings(LogSettings):
    """Of commands that say in a report what went wrong."""

    level: _LogLevel = _setting("error", _LOG_LEVEL_MEANING)


@attrs.frozen(kw_only=True)
class WorkspaceTable:
    """A table ``[[workspace]]`` of the TOML file: a workspace with a key of its own.

    ``base_url`` and ``projects`` replace ``--phonic.base-url`` and ``--watch.project`` unless they are empty.
    """

    name: str
    api_key_file: Path
    base_url: str = ""
    projects: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Settings:
    """Settings of the exporter. ``workspaces`` has no flag: only a file can hold such tables."""

    phonic: PhonicSettings = PhonicSettings()
    watch: WatchSettings = WatchSettings()
    metrics: MetricsSettings = MetricsSettings()
    state: StateSettings = attrs.field(factory=StateSettings)
    shard: ShardSettings = ShardSettings()
    history: HistorySettings = HistorySettings()
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)
    workspaces: Annotated[tuple[WorkspaceTable, ...], Parameter(parse=False)] = ()

    @property
    def has_workspaces(self) -> bool:
        """Whether workspaces have names, so that there may be several."""
        return self.phonic.api_key_dir is not None or bool(self.workspaces)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of conversations: the workspace, if it has a name, then those of ``--metrics.labels``."""
        return (WORKSPACE, *self.metrics.labels) if self.has_workspaces else self.metrics.labels


@attrs.frozen(kw_only=True)
class DemoSettings:
    """Settings of `demo`, which brings its own API and credential."""

    watch: WatchSettings = WatchSettings()
    metrics: MetricsSettings = MetricsSettings()
    state: StateSettings = attrs.field(factory=StateSettings)
    shard: ShardSettings = ShardSettings()
    history: HistorySettings = HistorySettings()
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class AskedWebSettings:
    listen_address: Repeated = attrs.field(
        default=(),
        metadata={
            "help": "Address to check, host:port; repeatable.",
            "shown": "the addresses of this user's running exporters, else :10058",
        },
    )
    config_file: Annotated[OptionalPath, Parameter(name="config.file")] = _setting(
        None, "Web config of the exporter; if set, an address is tried over TLS first."
    )


@attrs.frozen(kw_only=True)
class HealthcheckSettings:
    """Settings of `healthcheck`."""

    web: AskedWebSettings = AskedWebSettings()
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class DoctorSettings:
    """Settings of `doctor`."""

    phonic: PhonicSettings = PhonicSettings()
    conversation: str = _setting(
        "", "Id of the conversation whose live feed is observed; by default any live one, which takes an API key."
    )
    seconds: float = _setting(60.0, "Longest time to observe the live feed.")
    json: bool = _setting(False, "Write the report as one JSON object.")
    log: QuietLogSettings = QuietLogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class RecordSettings:
    """Settings of `record`."""

    phonic: PhonicSettings = PhonicSettings()
    conversation: str = _setting("", "Id of the live conversation to record.")
    output: OptionalPath = _setting(None, "File to write; it must not exist yet.")
    seconds: float = _setting(3600.0, "Longest time to record.")
    log: QuietLogSettings = QuietLogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class FlagRow:
    """A row of the flag table.

    ``key`` is the dotted path in the TOML file. ``takes`` names the kind of value that follows the flag, and is
    empty for an on-off flag. ``allowed`` holds the smallest and the largest number, if there are bounds.
    """

    flag: str
    variable: str
    default: str
    meaning: str
    key: str
    takes: str
    allowed: tuple[float, float] | None = None


def flag_table(settings: type = Settings, *, prefix: str = "") -> list[FlagRow]:
    """Return every flag of a settings class in order of declaration. ``prefix`` is the group of a nested class."""
    rows = []
    for key, field, hint, _ in _walk(settings(), prefix):
        default = field.metadata.get("shown")
        if default is None:
            default = _shown(field.default)
        rows.append(
            FlagRow(
                flag=f"--{key}",
                variable=variable_of(key),
                default=default,
                meaning=field.metadata["help"],
                key=key,
                takes=_takes(hint),
                allowed=_BOUNDS.get(key),
            )
        )
    return rows


def variable_of(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return VARIABLE_PREFIX + re.sub(r"[.-]", "_", key).upper()


def describe(settings: Settings) -> dict[str, object]:
    """Return every setting by dotted name, for the log and check-config, with credentials masked."""
    described = {key: value for key, _, _, value in _walk(settings, "")}
    described["phonic.base-url"] = _masked(settings.phonic.base_url)
    described["web.external-url"] = _masked(settings.web.external_url)
    described["state.url"] = _masked(settings.state.url)
    for table in settings.workspaces:
        shown = [str(table.api_key_file), _masked(table.base_url), *table.projects]
        described[f"workspace.{table.name}"] = " ".join(filter(None, shown))
    return {key: str(value) if isinstance(value, Path) else value for key, value in described.items()}


def resolve(settings: Settings, *, has_api_key: bool) -> Settings:
    """Fill in the settings that depend on the credential.

    Discovery is on if requested, or by default with an API key. The base URL is normalised. With a state URL there
    is no default state file.

    Raises: ConfigError if discovery was requested without an API key.
    """
    discover = settings.watch.discover
    if discover and not has_api_key:
        raise ConfigError("--watch.discover", "needs an API key; a session token cannot list conversations")
    if discover is None:
        discover = has_api_key
    state = settings.state
    if state.url and state.file == default_state_file():
        state = attrs.evolve(state, file=None)
    return attrs.evolve(
        settings,
        state=state,
        workspaces=tuple(
            attrs.evolve(each, base_url=each.base_url and normalised(each.base_url))
            for each in settings.workspaces
        ),
        phonic=attrs.evolve(settings.phonic, base_url=normalised(settings.phonic.base_url)),
        watch=attrs.evolve(settings.watch, discover=discover),
    )


def for_demo(settings: DemoSettings) -> Settings:
    """Return the exporter's settings for a demo.

    Discovery is on by default, the default state file is not used, and new series show their values at once unless
    ``--metrics.hold-new-series`` is changed. The caller sets the base URL once the simulator listens.
    """
    metrics = settings.metrics
    if metrics.hold_new_series == MetricsSettings().hold_new_series:
        metrics = attrs.evolve(metrics, hold_new_series=0.0)
    state = settings.state
    if state.file == default_state_file():
        state = attrs.evolve(state, file=None)
    return Settings(
        phonic=PhonicSettings(base_url="http://127.0.0.1"),
        watch=attrs.evolve(settings.watch, discover=settings.watch.discover is not False),
        metrics=metrics,
        state=state,
        shard=settings.shard,
        history=settings.history,
        web=settings.web,
        log=settings.log,
        config_file=settings.config_file,
    )


def validate(settings: Settings) -> None:
    """Check resolved settings. No error quotes a value that could hold a credential.

    Raises: ConfigError, which names the wrong flag, or an ExceptionGroup with one for each.
    """
    raise_all(_wrong(settings))


def validate_observation(settings: DoctorSettings | RecordSettings) -> None:
    """Refuse settings of `doctor` and `record` that cannot work. Raises: as `validate`."""
    wrong = []
    url = _wrong_base_url(settings.phonic)
    if url is not None:
        wrong.append(ConfigError("--phonic.base-url", url))
    is_recording = isinstance(settings, RecordSettings)
    if (settings.conversation or is_recording) and not is_conversation_id(settings.conversation):
        wrong.append(ConfigError("--conversation", _NO_CONVERSATION_ID))
    wrong += out_of_bounds({"seconds": settings.seconds}, {"seconds": (1, 86_400)})
    if isinstance(settings, RecordSettings) and settings.output is None:
        wrong.append(ConfigError("--output", "name the file to write"))
    raise_all(wrong)


def _wrong(settings: Settings) -> Iterator[ConfigError]:
    values = {key: value for key, _, _, value in _walk(settings, "")}
    yield from out_of_bounds(values, _BOUNDS)
    url = _wrong_base_url(settings.phonic)
    if url is not None:
        yield ConfigError("--phonic.base-url", url)
    yield from _wrong_workspaces(settings)
    yield from _wrong_watch(settings)
    yield from _wrong_metrics(settings.metrics)
    yield from _wrong_state(settings)
    if settings.state.file == _NOWHERE:
        yield ConfigError(
            "--state.file",
            "this user has no home folder for the state file; set a file, or an empty value for none",
        )
    elif settings.state.file is not None and os.path.isdir(settings.state.file):  # noqa: PTH112
        # Unlike `Path.is_dir` before Python 3.14, this returns False instead of raising OSError.
        yield ConfigError("--state.file", "is a folder; name a file in it")
    if not settings.web.listen_address and not settings.web.systemd_socket:
        yield ConfigError("--web.listen-address", "needs at least one address, such as :10058")
    if not settings.web.telemetry_path.startswith("/"):
        yield ConfigError("--web.telemetry-path", "must start with /")
    external = _wrong_external_url(settings.web.external_url)
    if external is not None:
        yield ConfigError("--web.external-url", external)
    if not _PREFIX.fullmatch(settings.web.route_prefix):
        yield ConfigError("--web.route-prefix", "must be like /phonic: segments of letters, digits and ._~-")


def _wrong_state(settings: Settings) -> Iterator[ConfigError]:
    state = settings.state
    if not state.url:
        unset = ShardSettings()
        if settings.shard.count != unset.count:
            yield ConfigError("--shard.count", "shards need --state.url")
        if settings.shard.lease != unset.lease:
            yield ConfigError("--shard.lease", "shards need --state.url")
        if state.password_file is not None:
            yield ConfigError("--state.password-file", "is for --state.url, which is not set")
        return
    if state.file not in (None, default_state_file()):
        yield ConfigError("--state.url", "excludes --state.file")


def route_prefix(web: WebSettings) -> str:
    """Return the prefix of all paths, without a slash at its end; empty for none."""
    return (web.route_prefix or urlsplit(web.external_url).path).rstrip("/")


def _wrong_external_url(text: str) -> str | None:
    """Return what is wrong with the URL, or None."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        return "is not a URL"
    if not text:
        return None
    is_path = text.startswith("/") and not url.netloc
    has_host = url.scheme in ("http", "https") and host and "@" not in url.netloc
    if not (is_path or has_host) or "?" in text or "#" in text:
        return "must be http(s)://HOST with an optional port and path, or only a path"
    if not _PREFIX.fullmatch(url.path):
        return "must have a path like /phonic: segments of letters, digits and ._~-"
    return None


def _wrong_base_url(phonic: PhonicSettings) -> str | None:
    """Return what is wrong with the URL, or None."""
    base_url = normalised(phonic.base_url)
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname, url.port  # raises ValueError for a bad port
    except ValueError:
        return "is not a URL"
    if url.scheme not in ("http", "https") or not host:
        return "must be https://HOST, or http:// for a local server"
    if url.username is not None or url.password is not None:
        return "must not hold a user or password; give the credential as a file or variable"
    if url.query or url.fragment or "?" in base_url or "#" in base_url:
        return "must not have a query or fragment"
    if re.search(r"\s", base_url):
        return "must not contain spaces"
    if url.scheme == "http" and not phonic.allow_http and not is_loopback(host):
        return "plain http would send the credential unencrypted; use https, or allow it with --phonic.allow-http"
    return None


def _wrong_workspaces(settings: Settings) -> Iterator[ConfigError]:
    seen: set[str] = set()
    for table in settings.workspaces:
        where = f"[[workspace]] {table.name!a}"
        if not is_workspace_name(table.name):
            yield ConfigError(where, f"a name is {NAME_RULE}")
        elif table.name in seen:
            yield ConfigError(where, "names a workspace twice")
        seen.add(table.name)
        if table.base_url:
            url = _wrong_base_url(attrs.evolve(settings.phonic, base_url=table.base_url))
            if url is not None:
                yield ConfigError(f"{where} base-url", url)
    if len(settings.workspaces) > MOST_WORKSPACES:
        yield ConfigError("[[workspace]]", f"more than {MOST_WORKSPACES} workspaces")
    if settings.workspaces and settings.phonic.api_key_dir is not None:
        yield ConfigError("--phonic.api-key-dir", "cannot be combined with [[workspace]] tables; use one of them")


def _wrong_watch(settings: Settings) -> Iterator[ConfigError]:
    watch = settings.watch
    if settings.has_workspaces:
        names = {each.name for each in settings.workspaces}
        for text in watch.conversation:
            if not is_reference(text):
                yield ConfigError(
                    "--watch.conversation", f"with several workspaces, name one: NAME/{_CONVERSATION_ID}"
                )
                break
            if names and split_reference(text)[0] not in names:
                yield ConfigError("--watch.conversation", f"no workspace is called {split_reference(text)[0]!r}")
    elif not all(map(is_conversation_id, watch.conversation)):
        yield ConfigError("--watch.conversation", _NO_CONVERSATION_ID)
    if watch.file is not None:
        try:
            watch.file.open("rb").close()
        except (OSError, ValueError) as exc:
            reason = (exc.strerror if isinstance(exc, OSError) else None) or "no such path"
            yield ConfigError("--watch.file", f"cannot read {str(watch.file)!r}: {reason}")
    if not (watch.conversation or watch.file or watch.discover or settings.web.enable_push_api):
        yield ConfigError(
            "--watch.discover",
            "nothing to watch: turn discovery on (it needs an API key), name conversations with "
            "--watch.conversation or --watch.file, or allow --web.enable-push-api",
        )


def _wrong_metrics(metrics: MetricsSettings) -> Iterator[ConfigError]:
    unknown = [label for label in metrics.labels if label not in LABEL_CHOICES]
    if unknown:
        yield ConfigError("--metrics.labels", f"{unknown[0]!r} is not one of {', '.join(LABEL_CHOICES)}")
    elif len(set(metrics.labels)) < len(metrics.labels):
        yield ConfigError("--metrics.labels", "names a label twice")
    if metrics.slo_response not in RESPONSE_BUCKETS:
        boundaries = ", ".join(f"{boundary:g}" for boundary in RESPONSE_BUCKETS)
        yield ConfigError("--metrics.slo-response", f"must be a bucket boundary: {boundaries}")


def _masked(url: str) -> str:
    """Return a URL without user, password, query and fragment. It need not have passed `validate`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    host = parts.netloc.rpartition("@")[2]
    return SplitResult(parts.scheme, host, parts.path, "", "").geturl()


def _walk(settings: Any, prefix: str) -> Iterator[tuple[str, "attrs.Attribute[Any]", Any, Any]]:
    """Yield each leaf of nested settings as (dotted name, field, type, value)."""
    hints = get_type_hints(type(settings), include_extras=True)
    for field in attrs.fields(type(settings)):
        value = getattr(settings, field.name)
        name = _given_name(hints[field.name]) or field.name.replace("_", "-")
        key = name.removeprefix("--") if name.startswith("--") or not prefix else f"{prefix}.{name}"
        if attrs.has(type(value)):
            yield from _walk(value, key)
        elif "help" in field.metadata:  # else it has no flag
            yield key, field, hints[field.name], value


def _takes(hint: Any) -> str:
    """Return the kind of value that a flag takes, for its help."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    kinds = {each for each in get_args(hint) or (hint,) if each not in (type(None), ...)}
    if kinds == {bool}:
        return ""
    return "NUMBER" if kinds <= {int, float} else "FILE" if kinds == {Path} else "TEXT"


def _given_name(hint: Any) -> str | None:
    """Return the flag name that an annotation sets, or None if it follows from the field."""
    names = [item.name for item in getattr(hint, "__metadata__", ()) if isinstance(item, Parameter)]
    return next((name[0] for name in names if isinstance(name, tuple) and name), None)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, tuple):
        return ",".join(default)
    return "" if default is None else str(default)
