"""Pure: every setting once (flag, variable, default, meaning), and the rules that a set of them must keep.

Strategy: the attrs classes below are the one declaration. ``cli`` reads flags, variables, TOML keys and help
from them; the README's table is compared with ``flag_table``. A field ``listen_address`` of the group ``web``
is the flag ``--web.listen-address``, the variable ``PHONIC_EXPORTER_WEB_LISTEN_ADDRESS`` and the key
``listen-address`` of the table ``[web]``. Values arrive unchecked; ``resolve`` and ``validate`` are the only
judges, because a check inside a class would escape from the command line as a traceback.
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

from .counting.labels import LABEL_CHOICES
from .errors import ConfigError
from .metrics.catalog import RESPONSE_BUCKETS
from .phonic.address import normalised
from .phonic.proxies import is_loopback
from .phonic.wire import is_conversation_id

VARIABLE_PREFIX: Final = "PHONIC_EXPORTER_"
CONFIG_FILE_MEANING: Final = "TOML file with the same names: a table for each group."


_PREFIX: Final = re.compile(r"/?|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")

# Smallest and largest sensible value. The small ends leave room for tests that live faster than people talk.
_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "phonic.requests-per-second": (0.1, 500),
    "watch.interval": (0.05, 3600),
    "watch.limit": (1, 1_000_000),
    "watch.idle-timeout": (0.1, 3600),
    "metrics.label-limit": (0, 1_000_000),
    "metrics.label-set-limit": (0, 1_000_000),
    "metrics.per-conversation-limit": (0, 1_000_000),
    "metrics.hold-new-series": (0, 3600),
    "state.interval": (0.01, 3600),
    "web.max-requests": (0, 1_000_000),
}


def _optional_path(_: Any, tokens: Sequence[Token]) -> Path | None:
    """An empty value means none, so that a variable or a flag can take back what a file says."""
    return Path(tokens[-1].value) if tokens[-1].value else None


def _without_empty(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(token.value for token in tokens if token.value)


def _comma_separated(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """``a,b`` as well as a TOML list; an empty value is the empty list."""
    items = (item.strip() for token in tokens for item in token.value.split(","))
    return tuple(item for item in items if item)


OptionalPath = Annotated[Path | None, Parameter(converter=_optional_path, n_tokens=1)]
Repeated = Annotated[tuple[str, ...], Parameter(converter=_without_empty, n_tokens=1, show_default=False)]
CommaSeparated = Annotated[
    tuple[str, ...], Parameter(converter=_comma_separated, n_tokens=1, show_default=",".join)
]


# Stands for the default where there is none: a user without a home has no state folder. Only `validate` minds.
_NOWHERE: Final = Path("~", "phonic-exporter.db")


def default_state_file() -> Path:
    """systemd's StateDirectory= when it has set one, else the user's state folder of the platform."""
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    try:
        found = Path(folder or platformdirs.user_state_path("phonic-exporter"))
    except RuntimeError:
        return _NOWHERE
    return _NOWHERE if found.parts[:1] == ("~",) else found / "phonic-exporter.db"


def _setting(default: Any, meaning: str, *, shown: str | None = None) -> Any:
    """An attrs field with its text for --help and README; ``shown`` describes a computed default."""
    return attrs.field(default=default, metadata={"help": meaning, "shown": shown})


_NO_CONVERSATION_ID = "not a conversation id (conv_ and up to 100 letters, digits, _ or -)"


@attrs.frozen(kw_only=True)
class PhonicSettings:
    base_url: str = _setting(
        "https://api.phonic.ai",
        "Address of the Phonic API; the live feed is on the same host. Also the variable PHONIC_BASE_URL.",
    )
    allow_http: bool = _setting(
        False, "Allow an unencrypted base URL that is not loopback; the credential then travels in clear."
    )
    api_key_file: OptionalPath = _setting(
        None, "File with the API key, read again after a 401. Or set the variable PHONIC_API_KEY."
    )
    session_token_file: OptionalPath = _setting(
        None,
        "File with a session token, in place of an API key: no discovery, fewer labels, no data from REST.",
    )
    ca_file: OptionalPath = _setting(
        None,
        "File with the certificates of the authorities to trust (PEM), in place of the system's; for REST, the "
        "live feed and an https proxy.",
    )
    requests_per_second: float = _setting(
        50.0,
        "Most REST requests in a second, of the 500 that Phonic allows; fewer for a while after a 429.",
    )


@attrs.frozen(kw_only=True)
class WatchSettings:
    conversation: Repeated = _setting((), "Conversation id to watch; repeatable.")
    file: OptionalPath = _setting(
        None, "File with one conversation id a line, or a JSON list; read again when it changes."
    )
    discover: bool | None = _setting(None, "Find live conversations over REST.", shown="on with an API key")
    project: Repeated = _setting((), "Project to discover in; repeatable. None: all projects.")
    interval: float = _setting(5.0, "Seconds between two looks for live conversations.")
    limit: int = _setting(5000, "Most conversations watched at once; more are refused and counted.")
    idle_timeout: float = _setting(
        30.0, "Seconds of silence after which a feed is pinged; without a pong in 10 s it is lost."
    )


@attrs.frozen(kw_only=True)
class MetricsSettings:
    labels: CommaSeparated = _setting(
        ("project", "agent"), f"Labels of conversation metrics, of: {', '.join(LABEL_CHOICES)}."
    )
    label_limit: int = _setting(100, "Distinct values of one label; the rest is __other__ and counted.")
    label_set_limit: int = _setting(
        200, "Distinct combinations of label values, 167 series each; the rest is __other__."
    )
    per_conversation_limit: int = _setting(
        1000, "Live conversations that get series of their own; 0 turns them off."
    )
    hold_new_series: float = _setting(
        30.0,
        "Seconds for which series that could not be known ahead are shown at 0 before their numbers, so that "
        "Prometheus "
        "counts their first increase; at least the scrape interval. 0: not at all.",
    )
    slo_response: float = _setting(1.5, "Response time objective in seconds; must be a bucket boundary.")


@attrs.frozen(kw_only=True)
class StateSettings:
    file: OptionalPath = attrs.field(
        factory=default_state_file,
        metadata={
            "help": "Checkpoint, so that counters survive a restart. Empty turns it off.",
            "shown": "$STATE_DIRECTORY/phonic-exporter.db, else the platform's state folder",
        },
    )
    interval: float = _setting(1.0, "Longest time in seconds between a change and its checkpoint.")


@attrs.frozen(kw_only=True)
class WebSettings:
    listen_address: Annotated[Repeated, Parameter(show_default=",".join)] = _setting(
        (":10058",),
        "Address to serve on, or vsock://:PORT; repeatable. Without a host: all addresses, IPv4 and IPv6.",
    )
    systemd_socket: bool = _setting(
        False, "Serve on the sockets that systemd passes (socket activation), in place of listen addresses."
    )
    telemetry_path: str = _setting("/metrics", "Path of the metrics page.")
    external_url: str = _setting(
        "", "URL by which the pages are reached, as through a reverse proxy; its path prefixes links and paths."
    )
    route_prefix: str = _setting(
        "", "Prefix of all paths, where a proxy changes them.", shown="path of --web.external-url"
    )
    config_file: Annotated[OptionalPath, Parameter(name="config.file")] = _setting(
        None,
        "Prometheus exporter-toolkit web config (TLS, client certificates, basic auth, headers); "
        "read again when it changes.",
    )
    disable_exporter_metrics: bool = _setting(
        False, "Leave out metrics about the exporter itself: process_* and phonic_exporter_* but its version."
    )
    max_requests: int = _setting(40, "Scrapes at the same time; more get a 503. 0: no limit.")
    enable_push_api: bool = _setting(
        False, "Serve PUT and DELETE of /api/v1/conversations/{id}, which start and stop a watcher."
    )


@attrs.frozen
class LogSettings:
    level: Literal["debug", "info", "warn", "error"] = _setting("info", "Least severe event to log.")
    format: Literal["logfmt", "json"] = _setting("logfmt", "One logfmt line or JSON object for each event.")


@attrs.frozen(kw_only=True)
class Settings:
    """What the whole program runs with; one object, passed whole."""

    phonic: PhonicSettings = PhonicSettings()
    watch: WatchSettings = WatchSettings()
    metrics: MetricsSettings = MetricsSettings()
    state: StateSettings = attrs.field(factory=StateSettings)
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class DemoSettings:
    """What `demo` obeys: the API, its credential and the way to it are its own."""

    watch: WatchSettings = WatchSettings()
    metrics: MetricsSettings = MetricsSettings()
    state: StateSettings = attrs.field(factory=StateSettings)
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class AskedWebSettings:
    listen_address: Repeated = attrs.field(
        default=(),
        metadata={
            "help": "Address to ask, host:port; repeatable.",
            "shown": "where the exporters of this user serve, else :10058",
        },
    )
    config_file: Annotated[OptionalPath, Parameter(name="config.file")] = _setting(
        None, "Web config of the exporter: with one, an address is asked over TLS first."
    )


@attrs.frozen(kw_only=True)
class HealthcheckSettings:
    """What `healthcheck` obeys."""

    web: AskedWebSettings = AskedWebSettings()
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class DoctorSettings:
    """What `doctor` obeys."""

    phonic: PhonicSettings = PhonicSettings()
    conversation: str = _setting("", "Conversation id whose live feed is observed; else one that goes on.")
    seconds: float = _setting(60.0, "Longest time to observe the live feed.")
    json: bool = _setting(False, "Write the report as one JSON object.")
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class RecordSettings:
    """What `record` obeys."""

    phonic: PhonicSettings = PhonicSettings()
    conversation: str = _setting("", "Conversation id to record, while it is live.")
    output: OptionalPath = _setting(None, "File to write; it must not exist yet.")
    seconds: float = _setting(3600.0, "Longest time to record.")
    log: LogSettings = LogSettings()
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = _setting(None, CONFIG_FILE_MEANING)


@attrs.frozen(kw_only=True)
class FlagRow:
    """A line of the flag table, as text; ``key`` is the dotted path in the TOML file.

    ``takes`` says what kind of value follows the flag: nothing for one that is on or off.
    """

    flag: str
    variable: str
    default: str
    meaning: str
    key: str
    takes: str


def flag_table(settings: type = Settings, *, prefix: str = "") -> list[FlagRow]:
    """Every flag of a settings class, in order of declaration; ``prefix`` is its group when used alone."""
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
            )
        )
    return rows


def variable_of(key: str) -> str:
    """The variable of a dotted key."""
    return VARIABLE_PREFIX + re.sub(r"[.-]", "_", key).upper()


def describe(settings: Settings) -> dict[str, object]:
    """Every effective setting under its dotted name, for the log and check-config; credentials masked."""
    described = {key: value for key, _, _, value in _walk(settings, "")}
    described["phonic.base-url"] = _masked(settings.phonic.base_url)
    described["web.external-url"] = _masked(settings.web.external_url)
    return {key: str(value) if isinstance(value, Path) else value for key, value in described.items()}


def resolve(settings: Settings, *, has_api_key: bool) -> Settings:
    """Decide what is left open.

    Discovery is on exactly when it was asked for, or is possible; the base URL is what was meant by what was
    pasted.

    Errors: ConfigError when discovery was asked for without an API key.
    """
    discover = settings.watch.discover
    if discover and not has_api_key:
        raise ConfigError("--watch.discover", "needs an API key; a session token cannot list conversations")
    if discover is None:
        discover = has_api_key
    return attrs.evolve(
        settings,
        phonic=attrs.evolve(settings.phonic, base_url=normalised(settings.phonic.base_url)),
        watch=attrs.evolve(settings.watch, discover=discover),
    )


def for_demo(settings: DemoSettings) -> Settings:
    """The same settings, aimed at the simulator: discovery on, and never the checkpoint of a real exporter.

    New series are shown at once unless something else is asked for: whoever opens a demo wants to see numbers. The
    base URL and the credential are the simulator's, known once it listens.
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
        web=settings.web,
        log=settings.log,
        config_file=settings.config_file,
    )


def validate(settings: Settings) -> None:
    """Refuse resolved settings that cannot work.

    Errors: ConfigError naming the wrong flag, or a group with one for each; no text quotes a value that could
    hold a credential.
    """
    wrong = list(_wrong(settings))
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise ExceptionGroup("settings", wrong)


def validate_observation(settings: DoctorSettings | RecordSettings) -> None:
    """Refuse settings of `doctor` and `record` that cannot work. Raises: as `validate`."""
    wrong = []
    url = _wrong_base_url(settings.phonic)
    if url is not None:
        wrong.append(ConfigError("--phonic.base-url", url))
    is_recording = isinstance(settings, RecordSettings)
    if (settings.conversation or is_recording) and not is_conversation_id(settings.conversation):
        wrong.append(ConfigError("--conversation", _NO_CONVERSATION_ID))
    if not 1 <= settings.seconds <= 86_400:  # also refuses NaN
        wrong.append(ConfigError("--seconds", "must be from 1 to 86400"))
    if isinstance(settings, RecordSettings) and settings.output is None:
        wrong.append(ConfigError("--output", "name the file to write"))
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise ExceptionGroup("settings", wrong)


def _wrong(settings: Settings) -> Iterator[ConfigError]:
    values = {key: value for key, _, _, value in _walk(settings, "")}
    for key, (low, high) in _BOUNDS.items():
        if not low <= values[key] <= high:  # also refuses NaN
            yield ConfigError(f"--{key}", f"must be from {low:g} to {high:,.12g}".replace(",", ""))
    url = _wrong_base_url(settings.phonic)
    if url is not None:
        yield ConfigError("--phonic.base-url", url)
    yield from _wrong_watch(settings)
    yield from _wrong_metrics(settings.metrics)
    if settings.state.file == _NOWHERE:
        yield ConfigError(
            "--state.file",
            "this user has no home to keep the checkpoint in; name a file, or give an empty value for none",
        )
    elif settings.state.file is not None and os.path.isdir(settings.state.file):  # noqa: PTH112
        # Unlike `Path.is_dir` before Python 3.14, this is False where it cannot be told.
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


def route_prefix(web: WebSettings) -> str:
    """What all paths begin with: nothing, or a path without a slash at its end."""
    return (web.route_prefix or urlsplit(web.external_url).path).rstrip("/")


def _wrong_external_url(text: str) -> str | None:
    """The first thing that is wrong with it."""
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
        return "must be http(s)://HOST with a port and a path where needed, or only a path"
    if not _PREFIX.fullmatch(url.path):
        return "must have a path like /phonic: segments of letters, digits and ._~-"
    return None


def _wrong_base_url(phonic: PhonicSettings) -> str | None:
    """The first thing that is wrong with it."""
    base_url = normalised(phonic.base_url)
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname, url.port  # a bad port shows only when asked for
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
        return "plain http would send the credential in clear; use https, or --phonic.allow-http to insist"
    return None


def _wrong_watch(settings: Settings) -> Iterator[ConfigError]:
    watch = settings.watch
    if not all(map(is_conversation_id, watch.conversation)):
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
    """A URL without what could be a credential; it need not have passed ``validate``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    host = parts.netloc.rpartition("@")[2]
    return SplitResult(parts.scheme, host, parts.path, "", "").geturl()


def _walk(settings: Any, prefix: str) -> Iterator[tuple[str, "attrs.Attribute[Any]", Any, Any]]:
    """Each leaf of nested settings as (dotted name, field, type, value)."""
    hints = get_type_hints(type(settings), include_extras=True)
    for field in attrs.fields(type(settings)):
        value = getattr(settings, field.name)
        name = _given_name(hints[field.name]) or field.name.replace("_", "-")
        key = name.removeprefix("--") if name.startswith("--") or not prefix else f"{prefix}.{name}"
        if attrs.has(type(value)):
            yield from _walk(value, key)
        else:
            yield key, field, hints[field.name], value


def _takes(hint: Any) -> str:
    """The kind of value of a flag, for help."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    kinds = {each for each in get_args(hint) or (hint,) if each not in (type(None), ...)}
    if kinds == {bool}:
        return ""
    return "NUMBER" if kinds <= {int, float} else "FILE" if kinds == {Path} else "TEXT"


def _given_name(hint: Any) -> str | None:
    """The name that an annotation gives its flag, where it is not the field's."""
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
