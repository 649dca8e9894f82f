"""The command line: sources and their precedence, errors in one line with their exit codes, no secrets."""

import os
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from exporter import cli
from exporter.errors import ConfigError
from exporter.scrape_rule import scrape_rule
from exporter.settings import DemoSettings, Settings, describe, flag_table
from exporter.simulator.settings import SimulatorSettings

SECRET = "ph_planted-secret"

# A value for each flag that is not its default: as text, and as describe() shows it.
SAMPLES: dict[str, tuple[str, object]] = {
    "phonic.base-url": ("https://phonic.example", "https://phonic.example"),
    "phonic.allow-http": ("true", True),
    "phonic.requests-per-second": ("50", 50.0),
    "phonic.api-key-file": ("a/key", "a/key"),
    "phonic.api-key-dir": ("/keys", "/keys"),
    "phonic.session-token-file": ("a/token", "a/token"),
    "phonic.ca-file": ("a/ca.pem", "a/ca.pem"),
    "watch.conversation": ("conv_1", ("conv_1",)),
    "watch.file": ("ids.txt", "ids.txt"),
    "watch.discover": ("false", False),
    "watch.project": ("my project", ("my project",)),
    "watch.interval": ("2.5", 2.5),
    "watch.limit": ("7", 7),
    "watch.idle-timeout": ("9", 9.0),
    "metrics.labels": ("agent,model", ("agent", "model")),
    "metrics.label-limit": ("7", 7),
    "metrics.label-set-limit": ("7", 7),
    "metrics.tool-limit": ("9", 9),
    "metrics.hold-new-series": ("7.5", 7.5),
    "metrics.per-conversation-limit": ("0", 0),
    "metrics.slo-response": ("0.8", 0.8),
    "state.file": ("", None),
    "state.interval": ("0.5", 0.5),
    "state.url": ("postgresql://me@db/exporter", "postgresql://db/exporter"),
    "state.password-file": ("/run/password", "/run/password"),
    "shard.count": ("4", 4),
    "shard.lease": ("2.5", 2.5),
    "history.conversations": ("7", 7),
    "history.hours": ("1.5", 1.5),
    "web.listen-address": ("127.0.0.1:0", ("127.0.0.1:0",)),
    "web.systemd-socket": ("true", True),
    "web.telemetry-path": ("/m", "/m"),
    "web.external-url": ("https://example.com/phonic", "https://example.com/phonic"),
    "web.route-prefix": ("/phonic", "/phonic"),
    "web.config.file": ("web.yml", "web.yml"),
    "web.disable-exporter-metrics": ("true", True),
    "web.max-requests": ("7", 7),
    "web.enable-push-api": ("true", True),
    "log.level": ("warn", "warn"),
    "log.format": ("json", "json"),
}
VARIABLES = {row.key: row.variable for row in flag_table()}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PHONIC_"):
            monkeypatch.delenv(name)


def parsed(*argv: str) -> Settings:
    _, bound, _ = cli.app.parse_args(list(argv), exit_on_error=False, print_error=False)
    given: Settings = bound.arguments.get("given", Settings())
    return given


def toml(tmp_path: Path, text: str) -> str:
    file = tmp_path / "exporter.toml"
    file.write_text(text)
    return str(file)


def as_toml(key: str, text: str, value: object) -> str:
    """Return the TOML line for a value, with its dotted key."""
    if isinstance(value, (bool, int, float)):
        return f"{key} = {text}"
    return f'{key} = "{text}"'


def run(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program with no variables of the exporter except those given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PHONIC_")}
    return subprocess.run(
        [sys.executable, "-m", "exporter", *argv],
        env={**inherited, "COLUMNS": "300", **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_every_flag_has_a_sample() -> None:
    assert {*SAMPLES, "config.file"} == {row.key for row in flag_table()}


@pytest.mark.parametrize("key", SAMPLES)
def test_command_line_changes_the_setting(key: str) -> None:
    text, value = SAMPLES[key]
    given = parsed(f"--{key}={text}")
    assert describe(given) == {**describe(Settings()), key: value}


@pytest.mark.parametrize("key", SAMPLES)
def test_variable_changes_the_setting(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = SAMPLES[key]
    monkeypatch.setenv(VARIABLES[key], text)
    assert describe(parsed()) == {**describe(Settings()), key: value}


@pytest.mark.parametrize("key", SAMPLES)
def test_file_changes_the_setting(key: str, tmp_path: Path) -> None:
    text, value = SAMPLES[key]
    file = toml(tmp_path, as_toml(key, text, value))
    assert describe(parsed("--config.file", file)) == {
        **describe(Settings()),
        key: value,
        "config.file": file,
    }


def test_command_line_overrides_variable_overrides_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"true": "false", "false": "true", "warn": "error", "json": "logfmt"}
    samples = {key: sample for key, sample in SAMPLES.items() if key != "state.file"}
    other = {
        key: others.get(text) or ("3" if type(value) in (int, float) else "conv_other")
        for key, (text, value) in samples.items()
    }
    wanted = {key: value for key, (_, value) in samples.items()}

    def shown(*argv: str) -> dict[str, object]:
        return {key: value for key, value in describe(parsed(*argv)).items() if key in samples}

    in_file = toml(tmp_path, "\n".join(as_toml(key, other[key], wanted[key]) for key in samples))
    monkeypatch.setenv("PHONIC_EXPORTER_CONFIG_FILE", in_file)
    from_file = shown()
    assert [key for key in samples if from_file[key] == wanted[key]] == []
    for key, (text, _) in samples.items():
        monkeypatch.setenv(VARIABLES[key], text)
    assert shown() == wanted
    for key in samples:
        monkeypatch.setenv(VARIABLES[key], other[key])
    assert shown(*(f"--{key}={text}" for key, (text, _) in samples.items())) == wanted


def test_lists_are_repeated_flags_comma_separated_variables_and_toml_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parsed("--watch.project", "a, b", "--watch.project", "c").watch.project == ("a, b", "c")
    file = toml(tmp_path, '[watch]\nproject = ["a, b", "c"]\n[metrics]\nlabels = ["agent", "origin"]\n')
    from_file = parsed("--config.file", file)
    assert from_file.watch.project == ("a, b", "c")
    assert from_file.metrics.labels == ("agent", "origin")
    monkeypatch.setenv("PHONIC_EXPORTER_WATCH_PROJECT", "a b, c,")
    monkeypatch.setenv("PHONIC_EXPORTER_METRICS_LABELS", "")
    from_variable = parsed("--config.file", file)
    assert from_variable.watch.project == ("a b", "c")
    assert from_variable.metrics.labels == ()
    monkeypatch.setenv("PHONIC_EXPORTER_WATCH_PROJECT", "")
    assert parsed("--config.file", file).watch.project == ()


def test_discovery_is_on_off_or_undecided() -> None:
    found = [parsed(*argv).watch.discover for argv in (["--watch.discover"], ["--watch.no-discover"], [])]
    assert found == [True, False, None]


def test_config_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert parsed("--config.file", toml(tmp_path, "\ufeff[watch]\nlimit = 7\n")).watch.limit == 7


def test_vendor_variable_for_the_base_url_is_between_ours_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml(tmp_path, '[phonic]\nbase-url = "https://file.example"\n')
    monkeypatch.setenv("PHONIC_BASE_URL", "https://vendor.example")
    assert parsed("--config.file", file).phonic.base_url == "https://vendor.example"
    monkeypatch.setenv("PHONIC_EXPORTER_PHONIC_BASE_URL", "https://ours.example")
    assert parsed().phonic.base_url == "https://ours.example"
    monkeypatch.setenv("PHONIC_EXPORTER_PHONIC_BASE_URL", "")
    assert parsed("--phonic.base-url", "https://flag.example").phonic.base_url == "https://flag.example"


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "PORT",
        "SERVICE_HOST",
        "SERVICE_PORT_WEB",
        "PORT_10058_TCP_ADDR",
        "WEB_PORT",
        "WEB_SERVICE_HOST",
    ):
        monkeypatch.setenv(f"PHONIC_EXPORTER_{name}", "tcp://10.0.0.1:10058")
    assert parsed() == Settings()


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("[web]\nbogus = 1", "web.bogus"),
        ("[webb]\nmax-requests = 1", "webb.max-requests'; did you mean web.max-requests?"),
        ("[web]\nmax_requests = 1", "web.max_requests'; did you mean web.max-requests?"),
        ("web = 1", "web"),
        ("[config]\nfile = 'x'", "config.file"),
        ("[phonic]\napi-key = 'ph_planted-secret'", "phonic.api-key'; did you mean phonic.api-key-file?"),
        ("[[web]]\nx = 1", "web"),
    ],
)
def test_unknown_key_of_the_file_is_named(tmp_path: Path, text: str, quoted: str) -> None:
    quoted = re.escape(quoted if "'" in quoted else f"{quoted}'")
    with pytest.raises(ConfigError, match=rf"^--config\.file: .* has an unknown key '{quoted}$"):
        parsed("--config.file", toml(tmp_path, text))


def test_file_with_tables_of_other_commands_serves_each(tmp_path: Path) -> None:
    file = toml(tmp_path, "[web]\nmax-requests = 3\n[simulator]\nseed = 77\n")
    assert tomllib.loads(Path(file).read_text())["simulator"]["seed"] != SimulatorSettings().seed
    assert parsed("--config.file", file).web.max_requests == 3
    for command in ("demo", "simulate"):
        _, bound, _ = cli.app.parse_args([command, "--config.file", file], exit_on_error=False)
        assert bound.arguments["given"].simulator == attrs.evolve(SimulatorSettings(), seed=77)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--web.max-requests", "x"], '--web.max-requests: Invalid value: unable to convert "x" into int'),
        (["--web.max-requests"], "--web.max-requests: requires an argument"),
        (["--log.level", "loud"], '--log.level: Invalid value "loud". Choose from: '),
        (["--log.level", SECRET], '--log.level: Invalid value "ph_***'),
        ([f"--phonic.api-key={SECRET}"], "--phonic.api-key: no such flag; did you mean --phonic.api-key-file?"),
        (["--phonic.api-key", SECRET], "--phonic.api-key: no such flag; did you mean --phonic.api-key-file?"),
        (["--web", "x"], "--web: is a group of flags; see --help"),
        ([SECRET], "command line: an argument that is neither a command nor a flag; see --help"),
        (["demo", SECRET], "command line: an argument that is neither a command nor a flag; see --help"),
        (["simulate", "--web.max-requests", "1"], "--web.max-requests: no such flag"),
        (["--web.max-requests=1", "--web.max-requests=2"], "command line: Parameter --web.max-requests specified"),
        (["--config.file", "none.toml"], "--config.file: cannot read 'none.toml': No such file or directory"),
        (["--watch.limit", "1.5"], "--watch.limit: must be a whole number"),
        (["--watch.limit", "1e3"], "--watch.limit: must be a whole number"),
        (["simulate", "--simulator.total", "2.0"], "--simulator.total: must be a whole number"),
        (["simulate", "--simulator.seed=1.5"], "--simulator.seed: must be a whole number"),
        (["--watch.intervall=1"], "--watch.intervall: no such flag; did you mean --watch.interval?"),
        (["demo", "--phonic.base-url", "https://x"], "--phonic.base-url: no such flag for demo"),
        (["demo", "--phonic.api-key-file=missing"], "--phonic.api-key-file: no such flag for demo"),
        (["demo", "--simulator.listen-address=nowhere"], "--simulator.listen-address: must be host:port"),
        (["healthcheck", "--watch.limit=1"], "--watch.limit: no such flag for healthcheck"),
        (
            ["check-confg"],
            "command line: an argument that is neither a command nor a flag; did you mean check-config?",
        ),
        (["check-config", "--phonic.ca-file=missing.pem"], "--phonic.ca-file: cannot read 'missing.pem': No such"),
        (["--phonic.ca-file", "/dev/null"], "--phonic.ca-file: '/dev/null' is not a regular file"),
        (["--watch.interval", "nan"], "--watch.interval: must be from 0.05 to 3600"),
        (["--web.listen-address", "nonsense"], "--web.listen-address: 'nonsense' is not "),
        (["--phonic.base-url", f"https://{SECRET}@x"], "--phonic.base-url: must not hold a user or password"),
        (["--watch.conversation", SECRET], "--watch.conversation: not a conversation id"),
        (["--watch.no-discover"], "--watch.discover: nothing to watch: "),
        (["--phonic.session-token-file", "x"], "--phonic.session-token-file: cannot be combined with"),
        (["check-config", "--metrics.slo-response", "1.4"], "--metrics.slo-response: must be a bucket boundary"),
        (["demo", "--metrics.labels", "bogus"], "--metrics.labels: 'bogus' is not one of project, agent"),
        (["healthcheck", "--web.listen-address", ":0"], "--web.listen-address: has no fixed port"),
    ],
)
def test_wrong_setting_is_one_line_and_exit_2(
    argv: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PHONIC_API_KEY", SECRET)
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 2):
        cli.main(argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"phonic-exporter: error: {line}")
    assert err.count("\n") == 1
    assert "planted" not in err


def test_wrong_variable_and_file_value_name_flag_and_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHONIC_EXPORTER_WEB_MAX_REQUESTS", "many")
    with pytest.raises(SystemExit):
        cli.main([])
    assert (
        "error: --web.max-requests: Invalid value for PHONIC_EXPORTER_WEB_MAX_REQUESTS" in capsys.readouterr().err
    )
    monkeypatch.setenv("PHONIC_EXPORTER_WEB", "x")
    monkeypatch.delenv("PHONIC_EXPORTER_WEB_MAX_REQUESTS")
    with pytest.raises(SystemExit):
        cli.main([])
    assert "error: --web: is a group of flags" in capsys.readouterr().err
    monkeypatch.delenv("PHONIC_EXPORTER_WEB")
    with pytest.raises(SystemExit):
        cli.main(["--config.file", toml(tmp_path, "[web]\nmax-requests = true")])
    assert "error: --web.max-requests: Invalid value for [web][max-requests]" in capsys.readouterr().err


def test_setting_refused_inside_nurseries_is_still_one_line() -> None:
    wrong = ConfigError("--web.listen-address", "cannot listen on :1: taken")
    other = ConfigError("--state.file", "is taken")
    assert cli.blamed_settings(wrong) == [wrong]
    assert cli.blamed_settings(ExceptionGroup("", [ExceptionGroup("", [wrong]), other])) == [wrong, other]
    assert cli.blamed_settings(ExceptionGroup("", [wrong, ValueError()])) == []
    assert cli.blamed_settings(ValueError()) == []


def test_every_wrong_setting_has_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHONIC_EXPORTER_WACH_INTERVAL", "1")
    monkeypatch.setenv("PHONIC_EXPORTER_LOG_LEVEL", "loud")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:planted@proxy")
    file = toml(
        tmp_path,
        """
        web.max-request = 1
        wach.limit = 1
        log.format.x = 1
        watch.interval = "x"
        phonic.requests-per-second = 0
        """,
    )
    argv = [
        "--config.file",
        file,
        "--watch.limit=0",
        "--bogus",
        "x",
        "--state.interval=much",
        "--web.max-requests=-1",
    ]
    for command in ([], ["check-config"]):
        with pytest.raises(SystemExit, check=lambda stop: stop.code == 2):
            cli.main([*command, *argv])
        out, err = capsys.readouterr()
        assert out == ""
        assert "planted" not in err
        blamed = [line.removeprefix("phonic-exporter: error: ").split(": ")[0] for line in err.splitlines()]
        assert sorted(blamed) == sorted(
            [
                *("PHONIC_EXPORTER_WACH_INTERVAL", "--log.level", "HTTPS_PROXY", "--config.file", "--config.file"),
                *("--watch.limit", "--bogus", "--state.interval", "--web.max-requests", "--phonic.api-key-file"),
                *("--watch.interval", "--phonic.requests-per-second", "--config.file"),
            ]
        )
        assert "did you mean PHONIC_EXPORTER_WATCH_INTERVAL?" in err
        assert "did you mean web.max-requests?" in err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("PHONIC_EXPORTER_WACH_INTERVAL", "; did you mean PHONIC_EXPORTER_WATCH_INTERVAL?"),
        ("PHONIC_EXPORTER_LISTEN_ADDRESS", "; did you mean PHONIC_EXPORTER_WEB_LISTEN_ADDRESS?"),
        ("PHONIC_EXPORTER_", ""),
        ("PHONIC_EXPORTER_QQ", ""),
        ("PHONIC_EXPORTER_SIMULATOR_SEEDS", "; did you mean PHONIC_EXPORTER_SIMULATOR_SEED?"),
        ("PHONIC_EXPORTER_watch_interval", "; did you mean PHONIC_EXPORTER_WATCH_INTERVAL?"),
    ],
)
def test_unknown_variable_with_our_prefix_is_an_error(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    for command in ([], ["demo"], ["simulate"], ["check-config"], ["healthcheck"]):
        with pytest.raises(ConfigError, match=f"^{name}: no such variable{re.escape(hint)}$") as refused:
            parsed(*command)
        assert refused.value.flag == name


def test_environment_serves_all_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONIC_EXPORTER_WATCH_LIMIT", "7")
    monkeypatch.setenv("PHONIC_EXPORTER_SIMULATOR_SEED", "7")
    for command in (["simulate"], ["demo"], ["healthcheck"], []):
        parsed(*command)


def test_check_config_warns_of_unusable_proxy_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHONIC_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,fd00::/8,.svc,[::1],::1/128,10.0.0.0/99")
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:planted@proxy:3128")
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main(["check-config", "--state.file="])
    first, second = capsys.readouterr().err.splitlines()
    assert "variable=ALL_PROXY" in first
    assert "variable=NO_PROXY" in second
    assert "planted" not in first + second


def test_check_config_shows_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main(["check-config", "--phonic.api-key-file", str(key), "--state.file", ""])
    out, err = capsys.readouterr()
    assert err == ""
    shown = dict(line.split(" = ", 1) for line in out.splitlines() if line.startswith("--"))
    assert shown.keys() == {row.flag for row in flag_table()}
    assert shown["--watch.discover"] == "on"
    assert shown["--state.file"] == ""
    assert shown["--web.listen-address"] == ":10058"
    assert (
        "at most about 116746 series: 58491 of label sets, 51255 of their tools, 7000 of live conversations" in out
    )
    assert SECRET not in out


SHARED = ("--state.url", "postgresql://exporter@db.internal/exporter", "--shard.count", "3")


def test_check_config_prints_the_scrape_rule_only_for_processes_that_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHONIC_API_KEY", SECRET)
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main(["check-config", *SHARED])
    out = capsys.readouterr().out
    assert out.endswith(f"\n{scrape_rule()}\n")
    assert "at most about 116746 series in each shard: 58491 of label sets" in out
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main(["check-config", "--state.file="])
    alone = capsys.readouterr().out
    assert "metric_relabel_configs" not in alone
    assert "shard:" not in alone


@pytest.mark.parametrize("library", ["psycopg", "psycopg.pq"])
def test_a_state_url_without_its_library_is_refused_in_one_line_that_says_how_to_install_it(library: str) -> None:
    """At a start and by check-config, beside what else is wrong."""
    code = f"import sys; sys.modules[{library!r}] = None; from exporter import cli; cli.main(sys.argv[1:])"
    for command in ([], ["check-config"]):
        refused = subprocess.run(
            [sys.executable, "-c", code, *command, *SHARED, "--watch.interval=-1"],
            env={**os.environ, "PHONIC_API_KEY": SECRET},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert refused.returncode == 2
        interval, missing = refused.stderr.splitlines()
        assert interval.startswith("phonic-exporter: error: --watch.interval: ")
        assert missing.startswith("phonic-exporter: error: --state.url: ")
        assert missing.endswith(' is not installed: pip install "phonic-exporter[postgres]"')


def test_check_config_validates_the_web_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHONIC_API_KEY", SECRET)
    file = tmp_path / "web.yml"
    file.write_text("bogus_key: 1\n")
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 2):
        cli.main(["check-config", "--web.config.file", str(file)])
    err = capsys.readouterr().err
    assert err.startswith("phonic-exporter: error: --web.config.file: ")
    assert err.count("\n") == 1


def test_help_lists_every_flag_and_command() -> None:
    shown = run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for row in flag_table():
        assert row.flag in shown.stdout
        assert row.variable in shown.stdout
    for command in ("demo", "simulate", "check-config", "healthcheck"):
        assert command in shown.stdout
    simulator = run("demo", "--help").stdout
    for row in flag_table(SimulatorSettings, prefix="simulator"):
        assert row.flag in simulator


OBEYED = {
    (): {row.flag for row in flag_table()},
    ("check-config",): {row.flag for row in flag_table()},
    ("demo",): {row.flag for row in flag_table(DemoSettings)}
    | {row.flag for row in flag_table(SimulatorSettings, prefix="simulator")},
    ("simulate",): {row.flag for row in flag_table(SimulatorSettings, prefix="simulator")}
    | {"--log.level", "--log.format", "--config.file"},
    ("healthcheck",): {
        "--web.listen-address",
        "--web.config.file",
        "--log.level",
        "--log.format",
        "--config.file",
    },
}


@pytest.mark.parametrize("columns", ["40", "80", "300"])
@pytest.mark.parametrize("command", OBEYED)
def test_help_has_each_flag_of_the_command_on_a_line_of_its_own(
    command: tuple[str, ...], columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main([*command, "--help"])
    shown = capsys.readouterr().out.splitlines()
    flags = [line.split()[0].rstrip(",") for line in shown if line.startswith("  --")]
    assert set(flags) - {"--help", "--version"} == OBEYED[command]
    assert len(flags) == len(set(flags))
    assert all(line.count(" --") <= 2 for line in shown if line.startswith("  --"))  # the second turns it off
    if columns == "80":
        too_long = [line for line in shown if len(line) > 80]
        assert too_long == []


def test_help_shows_value_and_variable_of_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert "\n  --watch.limit NUMBER\n      Most conversations watched at the same time" in shown
    assert "\n      Default: 5000\n      Variable: PHONIC_EXPORTER_WATCH_LIMIT\n" in shown
    assert "\n  --web.enable-push-api, --web.no-enable-push-api\n" in shown
    assert "\n  --log.level debug|info|warn|error\n" in shown
    assert "\n  --phonic.ca-file FILE\n" in shown


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_user_without_a_home_needs_one_only_for_the_default_state_file() -> None:
    def as_other_user(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PHONIC_", "XDG_"))}
        inherited.pop("HOME", None)
        return subprocess.run(
            ["setpriv", "--reuid=65532", "--clear-groups", sys.executable, "-m", "exporter", *argv],
            env={**inherited, **environ},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    reaches = ["setpriv", "--reuid=65532", "--clear-groups", sys.executable, "-c", "import attrs, exporter"]
    root = Path(__file__).parents[2]
    if subprocess.run(reaches, cwd=root, check=False, capture_output=True, timeout=30).returncode:
        pytest.skip("Python or the source tree is in a folder that others may not enter")
    for argv in (("--version",), ("--help",), ("demo", "--help")):
        assert (as_other_user(*argv).returncode, as_other_user(*argv).stderr) == (0, "")
    check = partial(as_other_user, "check-config", PHONIC_API_KEY=SECRET)
    refused = check()
    assert refused.returncode == 2
    assert refused.stderr.startswith("phonic-exporter: error: --state.file: this user has no home")
    assert refused.stderr.count("\n") == 1
    assert check("--state.file=").returncode == 0
    assert check("--state.file=/tmp/x.db").returncode == 0  # checked, not created
    assert check(STATE_DIRECTORY="/tmp").returncode == 0  # noqa: S108


def test_version_help_and_errors_import_no_slow_module() -> None:
    heavy = {"trio", "httpx", "hypercorn", "starlette", "sqlite3", "prometheus_client", "trio_websocket"}
    code = "import sys, exporter.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert not heavy & set(loaded.stdout.split())


def test_program_prints_its_version() -> None:
    shown = run("--version")
    assert shown.returncode == 0
    assert shown.stdout.startswith("phonic-exporter 0.")


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        ((), {}),
        (("--bogus",), {"PHONIC_API_KEY": SECRET}),
        (("--watch.limit", "0"), {"PHONIC_API_KEY": SECRET}),
        (("--log.level=debug",), {"PHONIC_API_KEY": f"{SECRET}\n"}),
        (("check-config",), {"PHONIC_API_KEY": SECRET, "PHONIC_BASE_URL": "http://phonic.example"}),
    ],
)
def test_program_refuses_wrong_settings_in_one_line(argv: tuple[str, ...], environ: dict[str, Any]) -> None:
    refused = run(*argv, **environ)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("phonic-exporter: error: ")
    assert refused.stderr.count("\n") == 1
    assert "planted" not in refused.stderr


def test_failure_is_one_line_and_exit_1_with_frames_only_at_debug() -> None:
    def failed(*argv: str) -> list[str]:
        with Path("/dev/full").open("w") as full:
            result = subprocess.run(
                [sys.executable, "-m", "exporter", "check-config", *argv],
                env={**os.environ, "PHONIC_API_KEY": SECRET},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=30,
                check=False,
            )
        assert result.returncode == 1
        assert "planted" not in result.stderr
        return result.stderr.splitlines()

    line = "phonic-exporter: error: OSError: No space left on device"
    assert failed() == [line]
    first, second = failed("--log.level=debug")
    assert first == line
    assert 'error=OSError at="exporter/cli.py:' in second


@pytest.mark.parametrize("command", [["doctor"], ["record", "--conversation=conv_1"]], ids=lambda argv: argv[0])
def test_commands_with_a_report_log_what_the_given_level_asks_for_and_else_only_errors(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setenv("PHONIC_API_KEY", "ph_test")
    monkeypatch.setattr(trio, "run", fail)

    def failed(*argv: str, output: str) -> list[str]:
        outputs = [f"--output={tmp_path / output}"] if command[0] == "record" else []
        with pytest.raises(SystemExit, check=lambda stop: stop.code == 1):
            cli.main([*command, *outputs, *argv])
        return capsys.readouterr().err.splitlines()

    line = "phonic-exporter: error: RuntimeError: unexpected; --log.level=debug shows where"
    assert failed(output="a") == failed("--log.format=json", output="b") == [line]
    first, second = failed("--log.level=debug", output="c")
    assert first == line
    assert 'event="stopped by an error" error=RuntimeError at="exporter/cli.py:' in second
