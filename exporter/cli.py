"""Wiring: the command line: commands, sources of settings, exit codes.

Settings come from, in order of precedence: command line, environment variable, TOML file, default. Each command
imports its slow dependencies itself, so that --help, --version and a wrong flag respond at once.

All problems with the settings are reported together, not just the first. So the steps that read the settings
record them (`_is_wrong`), and a command raises them with its own before it starts anything (`_check`).
"""

import difflib
import os
import re
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_origin

import attrs
import structlog
from cyclopts import (
    App,
    CycloptsError,
    Parameter,
    Token,
    UnknownCommandError,
    UnusedCliTokensError,
)
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict, Env

from . import __version__, logs, settings
from .errors import ConfigError, raise_all
from .metrics.catalog import SERIES_OF_A_TOOL, Scope, series_of
from .phonic import credentials
from .phonic.keys import Keys, WorkspaceKey
from .phonic.proxies import Proxies
from .scrape_rule import scrape_rule
from .settings import (
    DemoSettings,
    DoctorSettings,
    FlagRow,
    HealthcheckSettings,
    LogSettings,
    OptionalPath,
    PhonicSettings,
    RecordSettings,
    Settings,
    WorkspaceTable,
)
from .simulator.settings import SimulatorSettings, scenario_of
from .state.installed import check_postgres
from .web import healthcheck, running
from .web.listen import parse_address

# Kubernetes sets such variables for a Service named phonic-exporter or phonic-exporter-*.
_OF_A_SERVICE = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_[A-Z]+(_(ADDR|PORT|PROTO))?)?)")

_NUMBER_OF_HELP_COLUMNS = 80
_INTERRUPTED = 130  # as shells say of a program that SIGINT ended
_DEFAULTS = Settings()
_SIMULATOR = SimulatorSettings()


@attrs.frozen(kw_only=True)
class _Simulate:
    """Settings of `simulate`."""

    simulator: SimulatorSettings = _SIMULATOR
    log: LogSettings = _DEFAULTS.log
    config_file: Annotated[OptionalPath, Parameter(name="--config.file")] = attrs.field(
        default=None, metadata={"help": settings.CONFIG_FILE_MEANING, "shown": None}
    )


@attrs.frozen(kw_only=True)
class _Demo(DemoSettings):
    """Settings of `demo`."""

    simulator: SimulatorSettings = _SIMULATOR


# Settings of each command; the empty name is the exporter itself.
_SETTINGS_OF: dict[str, type] = {
    "": Settings,
    "demo": _Demo,
    "simulate": _Simulate,
    "check-config": Settings,
    "healthcheck": HealthcheckSettings,
    "doctor": DoctorSettings,
    "record": RecordSettings,
}
# Commands with flags of their own instead of the exporter's settings, with their help.
_OWN_FLAGS = {
    "completion": "Write a script with which bash, zsh or fish completes commands and flags.",
    "dashboards": "Write dashboards, rules and alerts for your own Grafana and Prometheus.",
}
# Problems found while the settings are read. Unset: the first problem is raised at once.
_wrong: ContextVar[list[ConfigError] | None] = ContextVar("wrong", default=None)
# The tables ``[[workspace]]`` of the file that are right, and whether all are.
_workspaces: ContextVar[tuple[WorkspaceTable, ...]] = ContextVar("workspaces", default=())
_are_all_tables_right: ContextVar[bool] = ContextVar("are_all_tables_right", default=True)


def _is_wrong(problem: ConfigError) -> None:
    """Record a problem with the settings."""
    found = _wrong.get()
    if found is None:
        raise problem
    found.append(problem)


def _found() -> list[ConfigError]:
    return list(_wrong.get() or ())


def _rows(of: Iterable[type]) -> dict[str, FlagRow]:
    """Return the flags of settings classes, by key."""
    return {row.key: row for each in of for row in settings.flag_table(each)}


def _groups(keys: Iterable[str]) -> set[str]:
    """Return the groups of dotted keys, such as ``web`` for ``web.listen-address``."""
    return {".".join(key.split(".")[:length]) for key in keys for length in range(1, key.count(".") + 1)}


def _did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a hint with the closest known name. ``word`` lacks the ``prefix`` that all ``known`` names share."""
    names = [name.removeprefix(prefix) for name in known]
    as_file = [
        name for name in names if name.replace("_", "-").lower() == f"{word}-file".replace("_", "-").lower()
    ]
    close = as_file or difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _split_variable(hint: Any, value: str, delimiter: str | None = None) -> list[str]:
    """Split a list at commas. An empty variable is an empty list, which overrides the list of a file."""
    return [item.strip() for item in value.split(delimiter or ",")] if get_origin(hint) is tuple else [value]


def _from_running_exporters(_: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Let `healthcheck` without an address ask the exporters that run on this machine."""
    argument = arguments.get("--web.listen-address", None)
    if commands == ("healthcheck",) and argument is not None and not argument.tokens:
        for found in running.find(os.environ):
            argument.append(Token(keyword=str(found.file), value=found.urls[0], source="running"))


def _refuse_unknown_variables(_: App, __: tuple[str, ...], ___: ArgumentCollection) -> None:
    """Refuse variables that belong to no command. All commands share one environment."""
    rows = _rows(_SETTINGS_OF.values())
    known = {row.variable for row in rows.values()}
    groups = {settings.variable_of(group) for group in _groups(rows)}
    for name in sorted(os.environ):
        ours = name.removeprefix(settings.VARIABLE_PREFIX)
        if ours != name and name not in known | groups and not _OF_A_SERVICE.fullmatch(ours):
            _is_wrong(
                ConfigError(
                    name, f"no such variable{_did_you_mean(ours.upper(), known, settings.VARIABLE_PREFIX)}"
                )
            )


def _refuse_groups(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse ``--web x``, which cyclopts would assign to the first field of the group."""
    for argument in arguments:
        if argument.children and argument.tokens:
            raise ConfigError(argument.name, "is a group of flags; see --help")


def _from_vendor_variable(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Read PHONIC_BASE_URL, which Phonic's SDKs use too. It overrides the file, but not our own variable."""
    url = os.environ.get("PHONIC_BASE_URL")
    argument = arguments.get("--phonic.base-url", None)
    if url and argument is not None and not argument.tokens:
        argument.append(Token(keyword="PHONIC_BASE_URL", value=url, source="env"))


def _from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Read the TOML file, which a flag or variable has named. All commands share it: refuse only unknown keys."""
    argument = arguments.get("--config.file", None)
    if argument is None or not argument.tokens or not argument.tokens[-1].value:
        return
    path = Path(argument.tokens[-1].value)
    content = _read_toml(path)
    _read_tables(content.pop("workspace", []), path)
    known = _rows(_SETTINGS_OF.values()).keys() - {"config.file"}
    for key in _remove_unknown(content, known):
        hint = _did_you_mean(key, known) if key != "config.file" else ""
        _is_wrong(ConfigError("--config.file", f"{str(path)!r} has an unknown key {key!r}{hint}"))
    Dict(content, allow_unknown=True, use_commands_as_keys=False, source=str(path))(app, commands, arguments)


_TABLE_KEYS: dict[str, type] = {"name": str, "api-key-file": str, "base-url": str, "projects": list}


def _is_of(value: Any, kind: type) -> bool:
    """Whether a value is a text, or a list of texts."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, kind)


def _read_tables(tables: Any, path: Path) -> None:
    """Keep the tables ``[[workspace]]``; record what is wrong with them."""
    found = []
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        _is_wrong(ConfigError("--config.file", f"{str(path)!r}: workspaces are tables [[workspace]]"))
        _are_all_tables_right.set(False)
        return
    for number, table in enumerate(tables, 1):
        where = f"[[workspace]] {number}"
        bad = False
        for key, value in table.items():
            kind = _TABLE_KEYS.get(key)
            if kind is None:
                _is_wrong(ConfigError(where, f"unknown key {key!r}{_did_you_mean(key, _TABLE_KEYS)}"))
            elif not _is_of(value, kind):
                _is_wrong(ConfigError(where, f"{key} must be {'a list of texts' if kind is list else 'a text'}"))
            else:
                continue
            bad = True
        for key in ("name", "api-key-file"):
            if not table.get(key):
                _is_wrong(ConfigError(where, f"needs {key}"))
                bad = True
        if not bad:
            found.append(
                WorkspaceTable(
                    name=table["name"],
                    api_key_file=Path(table["api-key-file"]),
                    base_url=table.get("base-url", ""),
                    projects=tuple(table.get("projects", ())),
                )
            )
    _workspaces.set(tuple(found))
    _are_all_tables_right.set(len(found) == len(tables))


def _refuse_values(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Convert each value here, so that a value that cannot be converted does not hide other problems."""
    for argument in arguments:
        if not argument.tokens or argument.children:
            continue
        try:
            if argument.hint in (int, int | None) and not all(_is_whole(each.value) for each in argument.tokens):
                raise ConfigError(argument.name, "must be a whole number")
            argument.convert_and_validate()
        except (CycloptsError, ConfigError) as exc:
            _is_wrong(exc if isinstance(exc, ConfigError) else ConfigError(*_usage_error(exc)))
            argument.tokens.clear()


def _is_whole(text: str) -> bool:
    """Whether a text is a whole number, or no number at all: cyclopts refuses the latter, but would round 1.5."""
    try:
        return float(text).is_integer() and not re.search(r"[.eE]", text)
    except ValueError:
        return True


app = App(
    name="phonic-exporter",
    help="Prometheus exporter for live Phonic voice conversations.",
    help_format="plaintext",
    version=f"phonic-exporter {__version__}",
    default_parameter=Parameter(env_var_split=_split_variable, negative_iterable=()),
    config=[
        _refuse_unknown_variables,
        _from_running_exporters,
        Env(settings.VARIABLE_PREFIX, command=False),
        _refuse_groups,
        _from_vendor_variable,
        _from_file,
        _refuse_values,
    ],
    result_action="return_value",
)

AllSettings = Annotated[Settings, Parameter(name="*")]


@app.default
def watch(*, given: AllSettings = _DEFAULTS) -> None:
    """Watch live conversations and serve their metrics."""
    ready, credential = _checked_settings(given)
    import trio

    from .app import run

    trio.run(partial(run, ready, credential))


@app.command
def demo(*, given: Annotated[_Demo, Parameter(name="*")] = _Demo()) -> None:
    """Run the exporter against a simulated Phonic in the same process, without an account."""
    logs.configure(given.log)
    ready = settings.for_demo(given)
    _check(partial(_validate, ready), partial(scenario_of, given.simulator))
    import trio

    from . import demo as demonstration

    trio.run(partial(demonstration.demo, ready, given.simulator))


@app.command
def simulate(*, given: Annotated[_Simulate, Parameter(name="*")] = _Simulate()) -> None:
    """Run only the simulated Phonic, for an exporter or a test to connect to."""
    logs.configure(given.log)
    _check(partial(scenario_of, given.simulator))
    import trio

    from . import demo as demonstration

    trio.run(partial(demonstration.simulate, given.simulator))


@app.command
def check_config(*, given: AllSettings = _DEFAULTS) -> None:
    """Validate the settings and the files that they name, and print them; exit 0 or 2."""
    from .web.endpoints import check_telemetry_path

    ready, keys = _checked_settings(given)
    for variable, reason in Proxies.from_environment(os.environ).warnings:
        structlog.get_logger().warning("proxy variable", variable=variable, reason=reason)
    check_telemetry_path(ready.web.telemetry_path)
    if ready.state.file is not None:
        from .state.file import check_file

        check_file(ready.state.file)
    if ready.web.config_file is not None:
        from .web import server

        server.validate(ready.web.config_file)
    for name, value in settings.describe(ready).items():
        _say(f"--{name} = {_as_text(value)}")
    workspaces = 1
    if isinstance(keys, Keys):
        workspaces = max(1, len(keys.current))
        _say(f"workspaces: {', '.join(keys.current) or 'none'}")
        for name, reason in keys.unusable.items():
            structlog.get_logger().warning("API key unusable", file=name, reason=reason)
    # More than each limit: what a limit folds has series of its own, in each workspace.
    sets = ready.metrics.label_set_limit + workspaces
    label_sets = sets * series_of(Scope.CONVERSATIONS)
    tools = sets * (ready.metrics.tool_limit + 1) * SERIES_OF_A_TOOL
    live = ready.metrics.per_conversation_limit * series_of(Scope.LIVE)
    where = " in each shard" if ready.state.url else ""  # each may meet every label set
    _say(
        f"at most about {label_sets + tools + live} series{where}: {label_sets} of label sets, {tools} of their "
        f"tools, {live} of live conversations"
    )
    if ready.state.url:
        _say("each scrape job of these exporters needs:")
        _say(scrape_rule())
    sys.stdout.flush()  # here, so that a full disk is reported like other errors


@app.command(name="healthcheck")
def check_health(
    *,
    given: Annotated[HealthcheckSettings, Parameter(name="*")] = HealthcheckSettings(),  # noqa: B008  # frozen
) -> int:
    """Ask the exporters on this machine, or at an address, whether they are healthy; exit 0 or 1."""
    logs.configure(given.log)
    _check()
    maybe_tls = given.web.config_file is not None
    for address in given.web.listen_address or _DEFAULTS.web.listen_address:
        trouble = healthcheck.trouble_at(address, maybe_tls=maybe_tls)
        if trouble is not None:
            _complain("healthcheck", trouble)
            return 1
    return 0


@app.command
def doctor(
    *,
    given: Annotated[DoctorSettings, Parameter(name="*")] = DoctorSettings(),  # noqa: B008  # frozen
) -> int:
    """Try Phonic with your key, read-only, and say what is right, what is wrong and what to do; exit 0 or 1."""
    logs.configure(given.log)
    from .phonic import trust
    from .phonic.address import normalised

    found: list[credentials.Credentials] = []

    def load() -> None:
        found.append(_credentials(given.phonic))

    _check(load, partial(settings.validate_observation, given), lambda: trust.trusting(given.phonic.ca_file))
    import trio

    from .diagnosis.examine import examine
    from .diagnosis.report import report

    examined = trio.run(
        partial(
            examine,
            attrs.evolve(given.phonic, base_url=normalised(given.phonic.base_url)),
            found[0],
            Proxies.from_environment(os.environ),
            conversation_id=given.conversation or None,
            seconds=given.seconds,
            progress=partial(_note, "doctor"),
        )
    )
    written = report(examined)
    _say(written.as_json() if given.json else written.as_text().rstrip("\n"))
    sys.stdout.flush()
    return 0 if written.is_well else 1


@app.command
def record(
    *,
    given: Annotated[RecordSettings, Parameter(name="*")] = RecordSettings(),  # noqa: B008  # frozen
) -> int:
    """Record a live conversation, all data replaced, for a bug report or for `simulate --replay`; exit 0 or 1."""
    logs.configure(given.log)
    from .phonic import trust
    from .phonic.address import normalised

    found: list[credentials.Credentials] = []

    def load() -> None:
        found.append(_credentials(given.phonic))

    _check(load, partial(settings.validate_observation, given), lambda: trust.trusting(given.phonic.ca_file))
    assert given.output is not None  # noqa: S101  # `_check` refuses None
    import trio

    from .recording import record as recording

    try:
        stream = given.output.open("x", encoding="utf-8", buffering=1)
    except OSError as exc:
        raise ConfigError("--output", f"cannot write {str(given.output)!r}: {exc.strerror}") from None
    with stream:
        try:
            snapshots = trio.run(
                partial(
                    recording.record,
                    attrs.evolve(given.phonic, base_url=normalised(given.phonic.base_url)),
                    found[0],
                    Proxies.from_environment(os.environ),
                    conversation_id=given.conversation,
                    seconds=given.seconds,
                    write=stream.write,
                    progress=partial(_note, "record"),
                )
            )
        except recording.NotRecorded as bad:
            given.output.unlink(missing_ok=True)
            _complain("record", str(bad))
            return 1
    _say(f"{snapshots} snapshots recorded in {given.output}; names, texts, ids and numbers are replaced")
    return 0


def _note(command: str, text: str) -> None:
    sys.stderr.write(f"{command}: {text}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 after a clean stop, 2 if the settings are wrong, 130 after Ctrl-C, else 1."""
    sys.exit(_run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    logs.configure(LogSettings())
    reading = _wrong.set([])
    tables, are_right = _workspaces.set(()), _are_all_tables_right.set(True)
    try:
        if argv and argv[0] in _OWN_FLAGS:
            own = _with_own_flags(argv[0])
            return own(argv[1:], exit_on_error=False, print_error=False, result_action="return_value") or 0
        command = argv[0] if argv and argv[0] in _SETTINGS_OF else ""
        if not {"--help", "-h"}.isdisjoint(argv):
            sys.stdout.write(_help(command))
            return 0
        return app(_without_unknown_flags(command, argv), exit_on_error=False, print_error=False) or 0
    except CycloptsError as exc:
        problems = [*_found(), ConfigError(*_usage_error(exc))]
    except Exception as exc:
        problems = blamed_settings(exc)
        if not problems:
            reason = exc.strerror if isinstance(exc, OSError) else None
            _complain(type(exc).__name__, reason or "unexpected; --log.level=debug shows where")
            structlog.get_logger().debug("stopped by an error", exc_info=exc)
            return 1
    except (KeyboardInterrupt, BaseExceptionGroup):  # such a group, with no Exception for a base, holds it
        return _INTERRUPTED
    finally:
        _wrong.reset(reading)
        _workspaces.reset(tables)
        _are_all_tables_right.reset(are_right)
    for problem in problems:
        _complain(problem.flag, problem.reason)
    return max(problem.exit_code for problem in problems)


def _with_own_flags(name: str) -> App:
    """A command with flags of its own instead of the exporter's settings."""
    if name == "dashboards":
        return _dashboards()
    from . import completion

    return completion.command(app, lambda: map(_with_own_flags, _OWN_FLAGS))


def _dashboards() -> App:
    """Import the command of dashboards/, which is installed as exporter.dashboards."""
    try:
        return import_module("exporter.dashboards.export").app  # type: ignore[no-any-return]
    except ModuleNotFoundError:  # a source tree that is not installed
        return import_module("dashboards.export").app  # type: ignore[no-any-return]


def _without_unknown_flags(command: str, argv: Sequence[str]) -> list[str]:
    """Return ``argv`` without unknown flags and their values; record those as problems."""
    rows = _rows([_SETTINGS_OF[command]])
    known = {f"--{key}" for key in rows} | {no_flag for row in rows.values() if (no_flag := _opposite(row))}
    # `_refuse_groups` handles groups, cyclopts --version.
    passed = known | {f"--{group}" for group in _groups(rows)} | {"--version", "--"}
    kept: list[str] = []
    unknown = False
    for argument in argv:
        flag = argument.partition("=")[0]
        if flag.startswith("--"):
            unknown = flag not in passed
            if unknown:
                of_others = f"--{flag[2:]}" in {f"--{key}" for key in _rows(_SETTINGS_OF.values())}
                hint = f" for {command}" if of_others else _did_you_mean(flag, known)
                _is_wrong(ConfigError(credentials.redact(flag), f"no such flag{hint}"))
                unknown = "=" not in argument
                continue
        elif unknown:  # its value
            unknown = False
            continue
        kept.append(argument)
    return kept


def _opposite(row: FlagRow) -> str | None:
    """Return the ``--no-`` flag of an on-off flag."""
    group, _, name = row.key.rpartition(".")
    return None if row.takes else f"--{group}.no-{name}"


def _help(command: str) -> str:
    """Return the help text of a command, with each of its flags on a line of its own."""
    width = max(shutil.get_terminal_size((_NUMBER_OF_HELP_COLUMNS, 24)).columns, 40)

    def wrapped(text: str, indent: int) -> str:
        return textwrap.fill(
            text,
            width,
            initial_indent=" " * indent,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )

    about = {name: (app[name].help if name else watch.__doc__) or "" for name in _SETTINGS_OF} | _OWN_FLAGS
    lines = [f"Usage: phonic-exporter {command} [FLAGS]".replace("  ", " "), "", wrapped(about[command], 0)]
    if not command:
        lines[0] = "Usage: phonic-exporter [COMMAND] [FLAGS]"
        lines += ["", "Commands (each with a --help of its own):"]
        for name in filter(None, about):
            lines += [f"  {name}", wrapped(about[name], 6)]
    group = ""
    for row in settings.flag_table(_SETTINGS_OF[command]):
        if row.key.split(".")[0] != group:
            group = row.key.split(".")[0]
            lines += ["", f"{group.capitalize()}:"]
        no_flag = _opposite(row)
        lines.append(f"  --{row.key} {row.takes}".rstrip() + (f", {no_flag}" if no_flag else ""))
        lines.append(wrapped(row.meaning, 6))
        if row.default:
            lines.append(wrapped(f"Default: {row.default}", 6))
        lines.append(f"      Variable: {row.variable}")
    lines += ["", "Other:", "  --help, -h", "      Show this."]
    if not command:
        lines += ["  --version", "      Show the version."]
    return "\n".join(lines) + "\n"


def _check(*checks: Callable[[], object]) -> None:
    """Call each check; raise all problems that they, and reading the settings, have found."""
    problems = _found()
    for check in checks:
        try:
            check()
        except (ConfigError, ExceptionGroup) as exc:
            found = blamed_settings(exc)
            if not found:
                raise
            problems += found
    raise_all(problems)


def _checked_settings(given: Settings) -> tuple[Settings, credentials.Credentials | Keys]:
    """Resolve and check the settings, and load the credential, or the keys of the workspaces."""
    logs.configure(given.log)
    from .phonic import trust

    given = attrs.evolve(given, workspaces=_workspaces.get())
    found: list[credentials.Credentials | Keys] = []
    ready = [attrs.evolve(given, watch=attrs.evolve(given.watch, discover=given.watch.discover is not False))]

    def load() -> None:
        if given.has_workspaces:
            found.append(_keys(given))
            has_api_key = True
        elif not _are_all_tables_right.get():
            return
        else:
            alone = _credentials(given.phonic)
            found.append(alone)
            has_api_key = isinstance(alone.current(), credentials.ApiKey)
        ready.append(settings.resolve(given, has_api_key=has_api_key))

    def find_proxy() -> None:
        for url in (given.phonic.base_url, *(each.base_url for each in given.workspaces)):
            with suppress(ValueError):  # a malformed base URL, which `_validate` reports
                Proxies.from_environment(os.environ).for_url(url)

    _check(
        load,
        lambda: _validate(ready[-1]),
        find_proxy,
        lambda: trust.trusting(given.phonic.ca_file),
        *((partial(check_postgres, given.state.url, given.state.password_file),) if given.state.url else ()),
    )
    return ready[-1], found[0]


def _keys(given: Settings) -> Keys:
    """The keys of the workspaces. Raises: ConfigError, or an ExceptionGroup with one for each wrong setting."""
    wrong: list[Exception] = []
    flag = "--phonic.api-key-dir" if given.phonic.api_key_dir else "[[workspace]]"
    alone = {
        "--phonic.api-key-file": given.phonic.api_key_file,
        "--phonic.session-token-file": given.phonic.session_token_file,
        credentials.API_KEY_VARIABLE: os.environ.get(credentials.API_KEY_VARIABLE),
    }
    wrong += [ConfigError(flag, f"cannot be combined with {name}") for name, value in alone.items() if value]
    if given.phonic.api_key_dir is not None:
        keys = Keys(folder=given.phonic.api_key_dir)
        keys.take(keys.look())
        if "" in keys.unusable:
            wrong.append(ConfigError(flag, keys.unusable[""]))
        raise_all(wrong)
        return keys
    found = []
    for table in given.workspaces:
        try:
            loaded = credentials.load(api_key_file=table.api_key_file, session_token_file=None, environ={})
            found.append(
                WorkspaceKey(name=table.name, credentials=loaded, base_url=table.base_url, projects=table.projects)
            )
        except ConfigError as bad:
            wrong.append(ConfigError(f"[[workspace]] {table.name!a} api-key-file", bad.reason))
    owners: dict[credentials.Credential, str] = {}
    for each in found:
        owner = owners.setdefault(each.credentials.current(), each.name)
        if owner != each.name:
            wrong.append(
                ConfigError(f"[[workspace]] {each.name!a} api-key-file", f"holds the key of {owner!r} too")
            )
    raise_all(wrong)
    return Keys(found)


def _credentials(given: PhonicSettings) -> credentials.Credentials:
    if given.api_key_file is None and (given.api_key_dir is not None or _workspaces.get()):
        flag = "[[workspace]]" if given.api_key_dir is None else "--phonic.api-key-dir"
        raise ConfigError(flag, "this command uses one key; name its file with --phonic.api-key-file")
    return credentials.load(
        api_key_file=given.api_key_file, session_token_file=given.session_token_file, environ=os.environ
    )


def _validate(ready: Settings) -> None:
    def parse_addresses() -> None:
        for address in ready.web.listen_address:
            parse_address(address)

    problems: list[Exception] = []
    for check in (partial(settings.validate, ready), parse_addresses):
        try:
            check()
        except (ConfigError, ExceptionGroup) as exc:
            problems.append(exc)
    raise_all(problems)


def blamed_settings(exc: BaseException) -> list[ConfigError]:
    """Return the ConfigErrors in ``exc``, which nurseries may have wrapped; none if it holds other errors."""
    if isinstance(exc, ConfigError):
        return [exc]
    if not isinstance(exc, BaseExceptionGroup) or exc.split(ConfigError)[1] is not None:
        return []
    return [blamed for each in exc.exceptions for blamed in blamed_settings(each)]


def _usage_error(exc: CycloptsError) -> tuple[str, str]:
    """Return flag and reason in one line. A stray argument is not quoted, because it may be an API key."""
    exc.verbose = False  # verbose texts are for developers who use cyclopts
    if isinstance(exc, (UnusedCliTokensError, UnknownCommandError)):
        commands = [name for name in (*_SETTINGS_OF, *_OWN_FLAGS) if name]
        stray = sys.argv[1:2] if exc.unused_tokens is None else exc.unused_tokens
        hint = _did_you_mean(stray[0], commands) if stray else ""
        return "command line", f"an argument that is neither a command nor a flag{hint or '; see --help'}"
    text = credentials.redact(" ".join(str(exc).split())).removesuffix(".")
    if exc.argument is None:
        return "command line", text
    flag = exc.argument.name
    return flag, text.replace(f" for {flag}", "").removeprefix(f"Parameter {flag} ")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # some Windows editors write a byte order mark
    except OSError as exc:
        raise ConfigError("--config.file", f"cannot read {str(path)!r}: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError("--config.file", f"{str(path)!r} is not TOML: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("--config.file", f"{str(path)!r} is not UTF-8") from exc


def _remove_unknown(table: dict[str, Any], known: Container[str], prefix: str = "") -> Iterator[str]:
    """Remove the values that are not known from nested tables; yield their dotted keys."""
    for key, value in list(table.items()):
        if isinstance(value, dict) and value:
            yield from _remove_unknown(value, known, f"{prefix}{key}.")
            if not table[key]:  # under the name of a setting it would be one more problem
                del table[key]
        elif not isinstance(value, dict) and prefix + key not in known:
            del table[key]
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
