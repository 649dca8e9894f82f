"""Wiring: the commands, where their settings come from, and what their exit codes are.

Sources in order of precedence: command line, variable, TOML file, default. Everything heavy is imported by
the command that needs it, so that --help, --version and a wrong flag answer at once.
"""

import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_origin

import structlog
from cyclopts import (
    App,
    CycloptsError,
    Parameter,
    Token,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict, Env

from . import __version__, healthcheck, logs, settings
from .errors import ConfigError
from .phonic import credentials
from .settings import LogSettings, OptionalPath, Settings
from .simulator.settings import SimulatorSettings
from .web.listen import parse_address

_SERIES_A_LABEL_SET = 170
_SERIES_A_LIVE_CONVERSATION = 8


def _split_variable(hint: Any, value: str, delimiter: str | None = None) -> list[str]:
    """A variable holds a list as ``a,b``; an empty one is the empty list, which beats a file's."""
    return [item.strip() for item in value.split(delimiter or ",")] if get_origin(hint) is tuple else [value]


def _refuse_groups(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """``--web x`` would otherwise fill the first field of the group."""
    for argument in arguments:
        if argument.children and argument.tokens:
            raise ConfigError(argument.name, "is a group of flags; see --help")


def _from_vendor_variable(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """PHONIC_BASE_URL, which others read too, beats the file and yields to our own variable."""
    url = os.environ.get("PHONIC_BASE_URL")
    argument = arguments.get("--phonic.base-url", None)
    if url and argument is not None and not argument.tokens:
        argument.append(Token(keyword="PHONIC_BASE_URL", value=url, source="env"))


def _from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """The TOML file that an earlier source names; it serves all commands, so only a key of none is wrong."""
    argument = arguments.get("--config.file", None)
    if argument is None or not argument.tokens or not argument.tokens[-1].value:
        return
    path = Path(argument.tokens[-1].value)
    content = _read_toml(path)
    known = {row.key for row in settings.flag_table()}
    known |= {row.key for row in settings.flag_table(SimulatorSettings, prefix="simulator")}
    for key in _leaves(content):
        if key not in known or key == "config.file":
            raise ConfigError("--config.file", f"{str(path)!r} has an unknown key {key!r}")
    Dict(content, allow_unknown=True, use_commands_as_keys=False, source=str(path))(app, commands, arguments)


app = App(
    name="phonic-exporter",
    help="Prometheus exporter for live Phonic voice conversations.",
    help_format="plaintext",
    version=f"phonic-exporter {__version__}",
    default_parameter=Parameter(env_var_split=_split_variable, negative_iterable=()),
    config=[
        Env(settings.VARIABLE_PREFIX, command=False),
        _refuse_groups,
        _from_vendor_variable,
        _from_file,
    ],
    result_action="return_value",
)

_DEFAULTS = Settings()
_SIMULATOR = SimulatorSettings()

# By name, and imported when it is used: dashboards/ of the source tree is installed as exporter.dashboards.
app.command("exporter.dashboards.export:app", name="dashboards", help="Write dashboards, rules and alerts.")

AllSettings = Annotated[Settings, Parameter(name="*")]
SimulatorFlags = Annotated[SimulatorSettings, Parameter(name="simulator")]


@app.default
def watch(*, given: AllSettings = _DEFAULTS) -> None:
    """Watch live conversations and serve their metrics."""
    ready, credential = _judged(given)
    import trio

    from . import app as program

    trio.run(partial(program.run, ready, credential))


@app.command
def demo(*, given: AllSettings = _DEFAULTS, simulator: SimulatorFlags = _SIMULATOR) -> None:
    """The same against a simulated Phonic in this process: no account, no other server."""
    logs.configure(given.log)
    ready = settings.for_demo(given)
    _validate(ready)
    import trio

    from . import app as program

    trio.run(partial(program.demo, ready, simulator))


@app.command
def simulate(
    *,
    simulator: SimulatorFlags = _SIMULATOR,
    log: Annotated[LogSettings, Parameter(name="log")] = _DEFAULTS.log,
    config_file: Annotated[
        OptionalPath, Parameter(name="--config.file", help=settings.CONFIG_FILE_MEANING)
    ] = None,
) -> None:
    """Only the simulated Phonic, for an exporter or a test elsewhere."""
    import trio

    from . import app as program

    del config_file  # `_from_file` has read it
    logs.configure(log)
    trio.run(partial(program.simulate, simulator))


@app.command
def check_config(*, given: AllSettings = _DEFAULTS) -> None:
    """Validate the settings and the files they name, and show what would run; exit 0 or 2."""
    from .web.endpoints import check_telemetry_path

    ready, _ = _judged(given)
    check_telemetry_path(ready.web.telemetry_path)
    if ready.state.file is not None:
        from .checkpoint import check_file

        check_file(ready.state.file)
    if ready.web.config_file is not None:
        from .web import server

        server.validate(ready.web.config_file)
    for name, value in settings.describe(ready).items():
        _say(f"--{name} = {_as_text(value)}")
    label_sets = ready.metrics.label_set_limit * _SERIES_A_LABEL_SET
    live = ready.metrics.per_conversation_limit * _SERIES_A_LIVE_CONVERSATION
    _say(f"at most about {label_sets + live} series: {label_sets} of label sets, {live} of live conversations")
    sys.stdout.flush()  # here, where a full disk is still an error of ours


@app.command(name="healthcheck")
def check_health(*, given: AllSettings = _DEFAULTS) -> int:
    """Ask the exporter on this machine, by its own settings, whether it is healthy; exit 0 or 1."""
    logs.configure(given.log)
    maybe_tls = given.web.config_file is not None
    if given.web.listen_address and healthcheck.is_healthy(given.web.listen_address[0], maybe_tls=maybe_tls):
        return 0
    _complain("healthcheck", "the exporter does not answer, or says that it is not healthy")
    return 1


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave: 0 clean stop, 2 settings that a user can mend, 1 anything else."""
    sys.exit(_run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    logs.configure(LogSettings())
    try:
        return app(argv, exit_on_error=False, print_error=False) or 0
    except CycloptsError as exc:
        _complain(*_usage_error(exc))
        return 2
    except ConfigError as exc:
        _complain(exc.flag, exc.reason)
        return exc.exit_code
    except KeyboardInterrupt:  # before the program listens to signals
        return 1
    except Exception as exc:
        wrong_setting = blamed_setting(exc)
        if wrong_setting is not None:
            _complain(wrong_setting.flag, wrong_setting.reason)
            return wrong_setting.exit_code
        reason = exc.strerror if isinstance(exc, OSError) else None
        _complain(type(exc).__name__, reason or "unexpected; --log.level=debug shows where")
        structlog.get_logger().debug("stopped by an error", exc_info=exc)
        return 1


def _judged(given: Settings) -> tuple[Settings, credentials.Credentials]:
    logs.configure(given.log)
    found = credentials.load(
        api_key_file=given.phonic.api_key_file,
        session_token_file=given.phonic.session_token_file,
        environ=os.environ,
    )
    ready = settings.resolve(given, has_api_key=isinstance(found.current(), credentials.ApiKey))
    _validate(ready)
    return ready, found


def _validate(ready: Settings) -> None:
    settings.validate(ready)
    for address in ready.web.listen_address:
        parse_address(address)


def blamed_setting(exc: BaseException) -> ConfigError | None:
    """The setting to blame when nurseries have wrapped it, and nothing else went wrong."""
    if isinstance(exc, ConfigError):
        return exc
    if not isinstance(exc, BaseExceptionGroup):
        return None
    blamed, rest = exc.split(ConfigError)
    return blamed_setting(blamed.exceptions[0]) if blamed is not None and rest is None else None


def _usage_error(exc: CycloptsError) -> tuple[str, str]:
    """Flag and reason in one line; a stray argument is not quoted, since it may be a misplaced key."""
    if isinstance(exc, (UnusedCliTokensError, UnknownCommandError)):
        return "command line", "an argument that is neither a command nor a flag; see --help"
    text = credentials.redact(" ".join(str(exc).split())).removesuffix(".")
    if isinstance(exc, UnknownOptionError) and exc.token.keyword:
        hint = text.partition("Did you mean ")[2]
        return exc.token.keyword.partition("=")[
            0
        ], f"no such flag; did you mean {hint}" if hint else "no such flag"
    if exc.argument is None:
        return "command line", text
    flag = exc.argument.name
    return flag, text.replace(f" for {flag}", "").removeprefix(f"Parameter {flag} ")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise ConfigError("--config.file", f"cannot read {str(path)!r}: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError("--config.file", f"{str(path)!r} is not TOML: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("--config.file", f"{str(path)!r} is not UTF-8") from exc


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _complain(subject: str, reason: str) -> None:
    sys.stderr.write(f"phonic-exporter: error: {subject}: {reason}\n")
