"""The declared settings and their validation."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from exporter.errors import ConfigError
from exporter.settings import (
    DemoSettings,
    MetricsSettings,
    PhonicSettings,
    Settings,
    StateSettings,
    WebSettings,
    default_state_file,
    describe,
    flag_table,
    for_demo,
    resolve,
    route_prefix,
    validate,
)

CONTRACT = {
    "--phonic.base-url": "https://api.phonic.ai",
    "--phonic.allow-http": "off",
    "--phonic.ca-file": "",
    "--phonic.requests-per-second": "50",
    "--phonic.api-key-file": "",
    "--phonic.api-key-dir": "",
    "--phonic.session-token-file": "",
    "--watch.conversation": "",
    "--watch.file": "",
    "--watch.discover": "on with an API key",
    "--watch.project": "",
    "--watch.interval": "5",
    "--watch.limit": "5000",
    "--watch.idle-timeout": "30",
    "--metrics.labels": "project,agent",
    "--metrics.label-limit": "100",
    "--metrics.label-set-limit": "200",
    "--metrics.tool-limit": "50",
    "--metrics.per-conversation-limit": "1000",
    "--metrics.hold-new-series": "30",
    "--metrics.slo-response": "1.5",
    "--state.file": "$STATE_DIRECTORY/phonic-exporter.db, else the platform's state folder",
    "--state.interval": "1",
    "--state.url": "",
    "--state.password-file": "",
    "--shard.count": "1",
    "--shard.lease": "5",
    "--history.conversations": "2000",
    "--history.hours": "24",
    "--web.listen-address": ":10058",
    "--web.systemd-socket": "off",
    "--web.telemetry-path": "/metrics",
    "--web.external-url": "",
    "--web.route-prefix": "path of --web.external-url",
    "--web.config.file": "",
    "--web.disable-exporter-metrics": "off",
    "--web.max-requests": "40",
    "--web.enable-push-api": "off",
    "--log.level": "info",
    "--log.format": "logfmt",
    "--config.file": "",
}


def changed(changes: dict[str, Any]) -> Settings:
    """Return default settings with discovery on and some fields (``group.field``) replaced."""
    settings = resolve(Settings(), has_api_key=True)
    for path, value in changes.items():
        group, field = path.split(".")
        settings = attrs.evolve(settings, **{group: attrs.evolve(getattr(settings, group), **{field: value})})
    return settings


def test_flags_and_defaults_are_the_public_contract() -> None:
    assert {row.flag: row.default for row in flag_table()} == CONTRACT


def test_every_flag_has_a_variable_of_its_own_and_a_meaning() -> None:
    rows = flag_table()
    assert len({row.variable for row in rows}) == len(rows)
    assert all(row.variable.startswith("PHONIC_EXPORTER_") and row.meaning.endswith(".") for row in rows)
    variables = {row.flag: row.variable for row in rows}
    assert variables["--web.listen-address"] == "PHONIC_EXPORTER_WEB_LISTEN_ADDRESS"
    assert variables["--web.config.file"] == "PHONIC_EXPORTER_WEB_CONFIG_FILE"


def test_defaults_are_valid_with_an_api_key() -> None:
    validate(resolve(Settings(), has_api_key=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"phonic.base_url": "http://127.0.0.1:8080"},
        {"phonic.base_url": "http://[::1]:8080/"},
        {"phonic.base_url": "http://localhost:1"},
        {"phonic.base_url": " https://api.phonic.ai/v1 "},
        {"phonic.base_url": "http://phonic.example", "phonic.allow_http": True},
        {"watch.discover": False, "watch.conversation": ("conv_" + "aZ0_-" * 20,)},
        {"watch.discover": False, "web.enable_push_api": True},
        {"metrics.labels": ()},
        {"metrics.labels": ("agent", "model")},
        {"metrics.per_conversation_limit": 0},
        {"metrics.slo_response": 0.65},
        {"web.max_requests": 0},
        {"state.file": None},
    ],
)
def test_unusual_settings_are_valid(changes: dict[str, Any]) -> None:
    validate(changed(changes))


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("--phonic.base-url", {"phonic.base_url": "http://phonic.example"}),
        ("--phonic.base-url", {"phonic.base_url": "http://127.evil.example"}),
        ("--phonic.base-url", {"phonic.base_url": "ftp://phonic.example"}),
        ("--phonic.base-url", {"phonic.base_url": "phonic.example"}),
        ("--phonic.base-url", {"phonic.base_url": ""}),
        ("--phonic.base-url", {"phonic.base_url": "https://"}),
        ("--phonic.base-url", {"phonic.base_url": "https://[::1"}),
        ("--phonic.base-url", {"phonic.base_url": "https://phonic.example:99999"}),
        ("--phonic.base-url", {"phonic.base_url": "https://me:ph_secret@phonic.example"}),
        ("--phonic.base-url", {"phonic.base_url": "https://phonic.example?session_token=ph_secret"}),
        ("--phonic.base-url", {"phonic.base_url": "https://phonic.example#ph_secret"}),
        ("--phonic.base-url", {"phonic.base_url": "https://phonic.example/a b"}),
        ("--watch.conversation", {"watch.conversation": ("conv_ok", "conv_")}),
        ("--watch.conversation", {"watch.conversation": ("ph_secret",)}),
        ("--watch.conversation", {"watch.conversation": ("conv_../../x",)}),
        ("--watch.conversation", {"watch.conversation": ("conv_a\n",)}),
        ("--watch.conversation", {"watch.conversation": ("conv_" + "a" * 101,)}),
        ("--watch.file", {"watch.file": Path("does/not/exist")}),
        ("--watch.file", {"watch.file": Path()}),
        ("--watch.discover", {"watch.discover": False}),
        ("--watch.interval", {"watch.interval": 0.0}),
        ("--watch.interval", {"watch.interval": float("nan")}),
        ("--watch.interval", {"watch.interval": float("inf")}),
        ("--watch.limit", {"watch.limit": 0}),
        ("--watch.idle-timeout", {"watch.idle_timeout": -1.0}),
        ("--metrics.labels", {"metrics.labels": ("project", "conversation_id")}),
        ("--metrics.labels", {"metrics.labels": ("agent", "agent")}),
        ("--metrics.label-limit", {"metrics.label_limit": -1}),
        ("--metrics.label-set-limit", {"metrics.label_set_limit": -1}),
        ("--metrics.tool-limit", {"metrics.tool_limit": -1}),
        ("--metrics.per-conversation-limit", {"metrics.per_conversation_limit": -1}),
        ("--metrics.hold-new-series", {"metrics.hold_new_series": -1}),
        ("--metrics.slo-response", {"metrics.slo_response": 1.4}),
        ("--state.interval", {"state.interval": 0.0}),
        ("--state.file", {"state.file": Path()}),
        ("--web.listen-address", {"web.listen_address": ()}),
        ("--web.telemetry-path", {"web.telemetry_path": "metrics"}),
        ("--web.max-requests", {"web.max_requests": -1}),
    ],
)
def test_wrong_setting_is_named_in_one_line_without_secrets(flag: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(changed(changes))
    assert refused.value.flag == flag
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_discovery_follows_the_credential_unless_it_is_set() -> None:
    def resolved(discover: bool | None, *, has_api_key: bool) -> bool | None:
        settings = changed({"watch.discover": discover})
        return resolve(settings, has_api_key=has_api_key).watch.discover

    assert resolved(None, has_api_key=True) is True
    assert resolved(None, has_api_key=False) is False
    assert resolved(False, has_api_key=True) is False
    with pytest.raises(ConfigError, match=r"^--watch\.discover: "):
        resolved(True, has_api_key=False)


def test_state_file_is_where_systemd_or_the_platform_keeps_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert Settings().state.file == Path("/var/lib/one/phonic-exporter.db")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    assert Settings().state.file == Path("/home/me/state/phonic-exporter/phonic-exporter.db")


def test_demo_needs_no_account_and_does_not_use_the_default_state_file() -> None:
    demo = for_demo(DemoSettings())
    validate(demo)
    assert demo.watch.discover is True
    assert demo.state.file is None
    assert for_demo(DemoSettings(state=StateSettings(file=default_state_file()))).state.file is None
    assert for_demo(DemoSettings(state=StateSettings(file=Path("demo.db")))).state.file == Path("demo.db")


def test_demo_shows_new_series_at_once_by_default() -> None:
    assert for_demo(DemoSettings()).metrics.hold_new_series == 0
    assert for_demo(DemoSettings(metrics=MetricsSettings(hold_new_series=5.0))).metrics.hold_new_series == 5


def test_description_names_every_setting_and_masks_what_may_be_secret() -> None:
    settings = changed({"phonic.base_url": "https://me:ph_secret@phonic.example:1/x?session_token=ph_secret"})
    described = describe(settings)
    assert list(described) == [row.key for row in flag_table()]
    assert described["phonic.base-url"] == "https://phonic.example:1/x"
    assert described["web.listen-address"] == (":10058",)
    assert "secret" not in str(described)


@pytest.mark.parametrize(
    ("external_url", "given", "prefix"),
    [
        ("", "", ""),
        ("", "/", ""),
        ("", "/phonic", "/phonic"),
        ("", "/phonic/", "/phonic"),
        ("/phonic/", "", "/phonic"),
        ("https://example.com", "", ""),
        ("https://example.com/", "", ""),
        ("https://example.com:8443/a/b/", "", "/a/b"),
        ("https://example.com/a", "/", ""),
        ("https://example.com/a", "/b", "/b"),
    ],
)
def test_paths_begin_with_the_prefix_or_else_with_the_path_of_the_external_url(
    external_url: str, given: str, prefix: str
) -> None:
    web = {"web.external_url": external_url, "web.route_prefix": given}
    validate(changed(web))
    assert route_prefix(WebSettings(external_url=external_url, route_prefix=given)) == prefix


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("external_url", "example.com"),
        ("external_url", "//example.com/a"),
        ("external_url", "/a?b"),
        ("external_url", "ftp://example.com"),
        ("external_url", "https://user:hunter2@example.com"),
        ("external_url", "https://example.com/a?b"),
        ("external_url", "https://example.com/a#b"),
        ("external_url", "https://example.com/a b"),
        ("external_url", "https://example.com/{x}"),
        ("external_url", "https://example.com/../a"),
        ("external_url", "https://[::1"),
        ("external_url", "https://example.com:x"),
        ("route_prefix", "phonic"),
        ("route_prefix", "/a//b"),
        ("route_prefix", "/{a}"),
        ("route_prefix", "/a\n"),
        ("route_prefix", "/.."),
    ],
)
def test_malformed_prefix_or_external_url_is_refused(field: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(changed({f"web.{field}": value}))
    assert refused.value.flag == f"--web.{field.replace('_', '-')}"
    assert "hunter2" not in str(refused.value)


def test_systemd_sockets_need_no_listen_address() -> None:
    validate(changed({"web.listen_address": (), "web.systemd_socket": True}))


@pytest.mark.parametrize("pasted", ["https://API.phonic.ai/v1/", "https://api.phonic.ai/v1/conversations"])
def test_pasted_base_urls_are_normalised(pasted: str) -> None:
    settings = Settings(phonic=PhonicSettings(base_url=pasted))
    assert resolve(settings, has_api_key=True).phonic.base_url == "https://api.phonic.ai"
