"""The web configuration file: valid and invalid cases of the toolkit, and texts of errors."""

import ssl
import subprocess
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from exporter.errors import ConfigError
from exporter.web.config_file import RateLimit, parse
from exporter.web.reload import ReloadedConfig
from exporter.web.security import TokenBucket
from exporter.web.server import validate
from exporter.web.tls import has_allowed_san
from tests.unit.certificates import make_authority, make_certificate

TLS = 'tls_server_config: {cert_file: "server.pem", key_file: "server.key"%s}\n'
HASH = "$2y$10$qRTBuFoULoYNA7AQ/F3ck.trZBPyjV64.oA4ZsSBCIWvXuvQlQTuu"


def can_be_limited_to_x25519() -> bool:
    """Whether this Python can: 3.11.2 of Debian 12 and others cannot, even if OpenSSL can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve("X25519")
    except (ssl.SSLError, ValueError):
        return False
    return True


ALL_CIPHERS = """
  TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
  TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
  TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256
  TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA
  TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA
""".split()


@pytest.fixture(scope="session")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pems")
    make_authority(folder)
    make_certificate(folder, "server", sans="DNS:localhost,IP:127.0.0.1")
    make_certificate(folder, "other", sans="DNS:localhost")
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:hunter2", "-in", "server.key", "-out", "locked.key"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def check(folder: Path, text: str) -> None:
    file = folder / "web.yml"
    file.write_text(text)
    validate(file)


def indented(pem: Path) -> str:
    return "".join(f"\n    {line}" for line in pem.read_text().splitlines())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("# nothing\n", id="comment"),
        pytest.param("tls_server_config:\nbasic_auth_users:\nrate_limit:\n", id="empty sections"),
        pytest.param('tls_server_config: {cert_file: "", key_file: ""}', id="no TLS"),
        pytest.param(TLS % "", id="TLS"),
        pytest.param(TLS % ", client_auth_type: VerifyClientCertIfGiven", id="system authorities"),
        pytest.param(TLS % ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem", id="mTLS"),
        pytest.param(
            TLS % ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem,"
            " client_allowed_sans: [one, two]",
            id="allowed SANs",
        ),
        pytest.param(TLS % f", cipher_suites: [{', '.join(ALL_CIPHERS)}]", id="all ciphers"),
        pytest.param(
            TLS % ", cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384], max_version: TLS12"
            + "http_server_config: {http2: false}\n",
            id="cipher that HTTP/2 forbids, without HTTP/2",
        ),
        pytest.param(TLS % ", cipher_suites: [TLS_AES_128_GCM_SHA256]", id="TLS 1.3 ciphers only"),
        pytest.param(
            TLS % ", cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,"
            " TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256], prefer_server_cipher_suites: false,"
            " min_version: TLS12, max_version: TLS12",
            id="client's order of ciphers",
        ),
        pytest.param(TLS % ", curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]", id="all curves"),
        pytest.param(TLS % ", curve_preferences: [CurveP521], min_version: TLS13", id="one curve"),
        pytest.param(
            TLS % ", curve_preferences: [X25519]",
            id="X25519",
            marks=pytest.mark.skipif(not can_be_limited_to_x25519(), reason="this Python's ssl cannot set X25519"),
        ),
        pytest.param(
            """
http_server_config:
  headers:
    X-Frame-Options: deny
    Strict-Transport-Security: max-age=31536000; includeSubDomains
    X-Content-Type-Options: nosniff
    X-XSS-Protection: 1
    Content-Security-Policy: "default-src 'self' *.test.example.net"
""",
            id="headers",
        ),
        pytest.param("http_server_config: {headers: {X-XSS-Protection: ''}}", id="blank header"),
        pytest.param(f"basic_auth_users:\n  alice: {HASH}\n  123: {HASH}\n", id="users"),
        pytest.param("rate_limit: {interval: 0, burst: 0}", id="no rate limit"),
        pytest.param("rate_limit: {interval: 1m30.5s, burst: 20}", id="rate limit"),
    ],
)
def test_good_file_is_accepted(pems: Path, text: str) -> None:
    check(pems, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hWkNKCp3fvIx3jKnsaBI\nTuEjdwNS8A2vYdFbiKqr\n", "must be a mapping"),
        ("- a\n", "must be a mapping"),
        ("a: b: c", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ("a: 1\n---\nb: 1\n", "not valid YAML"),
        ("? [a]\n: b\n", "not valid YAML"),
        ("\x01", "not valid YAML"),
        ("basic_auth_users: &a\n  x: *a\n", "not valid YAML"),
        (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", "a key given twice at or after line 2"),
        ("tls_config: {}", "unknown key 'tls_config'"),
        ("tls_server_config: {key 'hunter2'}", "tls_server_config: unknown key; known are cert,"),
        ("tls_server_config: {key=hunter2: }", "tls_server_config: unknown key; known are cert,"),
        ("tls_server_config: {cert_filse: server.pem}", "tls_server_config: unknown key 'cert_filse'"),
        ("tls_server_config: server.pem", "tls_server_config: must be a mapping"),
        ("tls_server_config: {cert_file: [server.pem]}", "tls_server_config.cert_file: must be a single"),
        ('tls_server_config: {cert_file: "", key_file: server.key}', "missing one of cert or cert_file"),
        ('tls_server_config: {cert: "", key_file: server.key}', "missing one of cert or cert_file"),
        ('tls_server_config: {cert_file: server.pem, key_file: ""}', "missing one of key or key_file"),
        ('tls_server_config: {cert_file: server.pem, key: ""}', "missing one of key or key_file"),
        ('tls_server_config: {cert_file: "", key_file: "", client_auth_type: x}', "missing one of cert"),
        ("tls_server_config: {min_version: TLS13}", "missing one of cert or cert_file"),
        (TLS % ", cert: abc", "cert: cannot be given together with cert_file"),
        ("tls_server_config: {cert_file: somefile, key_file: server.key}", "No such file or directory: "),
        ("tls_server_config: {cert_file: server.pem, key_file: somefile}", "No such file or directory"),
        ("tls_server_config: {cert_file: server.pem, key_file: other.key}", "KEY_VALUES_MISMATCH"),
        ("tls_server_config: {cert_file: server.pem, key_file: locked.key}", "do not load"),
        ("tls_server_config: {cert: abc, key: hunter2}", "do not load"),
        ("tls_server_config: {cert_file: ., key_file: server.key}", "Is a directory"),
        (TLS % ", client_ca_file: ca.pem", "client_auth_type: required with client_ca"),
        (TLS % ", client_allowed_sans: [one]", "client_auth_type: required with client_ca"),
        (
            TLS % ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: x",
            "client CA cannot be read: No such",
        ),
        (TLS % ", client_auth_type: RequireAndVerifyClientCert, client_ca: x", "client CA does not load"),
        (TLS % ", client_auth_type: Always", "must be one of NoClientCert, RequestClientCert, VerifyClientCertI"),
        (TLS % ", client_auth_type: RequireAnyClientCert", "without verifying it"),
        (
            TLS % ", client_auth_type: RequestClientCert, client_allowed_sans: [a]",
            "certificates that are verified",
        ),
        (TLS % ", client_allowed_sans: one", "client_allowed_sans: must be a list"),
        (TLS % ", min_version: TLS111", "min_version: must be one of TLS10, TLS11, TLS12, TLS13"),
        (TLS % ", min_version: TLS13, max_version: TLS12", "min_version: must not be above max_version"),
        (TLS % ", cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048]", "unknown cipher suite"),
        (
            TLS % ", cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384], max_version: TLS12",
            "HTTP/2 needs",
        ),
        (TLS % ", cipher_suites: [TLS_AES_128_GCM_SHA256], max_version: TLS12", "needs a suite for TLS 1.2"),
        (TLS % ", curve_preferences: [CurveP257]", "curve_preferences: unknown curve"),
        (TLS % ", prefer_server_cipher_suites: maybe", "must be true or false"),
        ("http_server_config: {http3: true}", "http_server_config: unknown key 'http3'"),
        ("http_server_config: {http2: 1}", "http_server_config.http2: must be true or false"),
        ("http_server_config: {headers: {X-Content-Type-Options: sniff}}", "must be one of nosniff"),
        ("http_server_config: {headers: {X-Frame-Options: foo}}", "must be one of deny, sameorigin"),
        ("http_server_config: {headers: {Content-Type: foo}}", "headers: unknown key 'Content-Type'"),
        ('http_server_config: {headers: {X-XSS-Protection: "1\\r\\na: b"}}', "one line of printable ASCII"),
        ("basic_auth_users: [john]", "basic_auth_users: must be a mapping"),
        ("basic_auth_users: {john: hunter2}", "password 1 is not a bcrypt hash"),
        (f"basic_auth_users: {{ann: {HASH}, john: [{HASH}]}}", "password 2 is not a bcrypt hash"),
        (f"basic_auth_users: {{'a:b': {HASH}}}", "name 1 is empty or has a colon"),
        ("rate_limit: {interval: 1s, burst: -1}", "burst: must be a whole number"),
        ("rate_limit: {interval: 5, burst: 1}", "interval: must be a duration"),
        ("rate_limit: {interval: soon, burst: 1}", "interval: must be a duration"),
        ("rate_limit: 7", "rate_limit: must be a mapping"),
    ],
)
def test_bad_file_is_refused_in_one_line_that_names_the_key(pems: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(pems, text)
    assert refused.value.flag == "--web.config.file"
    assert reason in refused.value.reason
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert HASH not in str(refused.value)


@pytest.mark.parametrize("name", ["missing.yml", "."])
def test_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        validate(tmp_path / name)


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        validate(tmp_path / "web.yml")


@pytest.mark.skipif(can_be_limited_to_x25519(), reason="this Python's ssl can set X25519")
def test_curve_that_python_cannot_set_is_refused_and_python_is_named(pems: Path) -> None:
    with pytest.raises(ConfigError, match="this Python's ssl module cannot be limited to X25519"):
        check(pems, TLS % ", curve_preferences: [X25519]")


def test_certificates_may_be_inline(pems: Path) -> None:
    check(
        pems,
        "tls_server_config:\n"
        f"  cert: |{indented(pems / 'server.pem')}\n"
        f"  key: |{indented(pems / 'server.key')}\n"
        f"  client_ca: |{indented(pems / 'ca.pem')}\n"
        "  client_auth_type: RequireAndVerifyClientCert\n",
    )


def test_paths_start_at_the_file(pems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    check(pems, TLS % "")


def test_tls_settings_reach_the_context(pems: Path) -> None:
    file = pems / "strict.yml"
    file.write_text(
        TLS % ", cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256], max_version: TLS12,"
        " client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem,"
        " prefer_server_cipher_suites: false"
    )
    context = ReloadedConfig(file).in_force.tls
    assert context is not None
    assert context.maximum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    tls_1_2 = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert tls_1_2 == ["ECDHE-ECDSA-AES128-GCM-SHA256"]


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text, Path())
    except ConfigError as refused:
        assert "\n" not in str(refused)  # noqa: PT017  (both outcomes are valid)


def test_no_secret_is_shown() -> None:
    config = parse(f"tls_server_config: {{cert: a, key: hunter2}}\nbasic_auth_users: {{a: {HASH}}}", Path())
    assert "hunter2" not in repr(config)
    assert HASH not in repr(config)


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ([("DNS", "one")], True),
        ([("DNS", "other"), ("email", "ops@example.com")], True),
        ([("URI", "spiffe://example/prometheus")], True),
        ([("IP Address", "127.0.0.1")], True),
        ([("IP Address", "0:0:0:0:0:0:0:1\n")], True),
        ([("DNS", "one.evil")], False),
        ([], False),
    ],
)
def test_one_allowed_name_is_enough(names: list[tuple[str, str]], allowed: bool) -> None:
    wanted = frozenset({"one", "ops@example.com", "spiffe://example/prometheus", "127.0.0.1", "::1"})
    assert has_allowed_san({"subject": (), "subjectAltName": tuple(names)}, wanted) is allowed


def test_bucket_allows_a_burst_then_one_per_interval() -> None:
    bucket = TokenBucket(RateLimit(2.0, 3))
    assert [bucket.allow(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.allow(101.0), bucket.allow(102.0), bucket.allow(102.0)] == [False, True, False]
    assert [bucket.allow(1000.0) for _ in range(4)] == [True, True, True, False]


def write_users(file: Path, *names: str) -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    file.write_text("basic_auth_users:\n" + "".join(f"  {name}: {hashed}\n" for name in names))


async def test_changed_file_is_in_force_at_the_next_look(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"
    write_users(file, "alice")
    times = iter([1000.0, 2000.0])
    live = ReloadedConfig(file, now=lambda: next(times))
    assert live.last_success_timestamp == 1000.0
    assert await live.current() is live.in_force
    write_users(file, "alice", "bob")
    assert set((await live.current()).config.users) == {"alice", "bob"}
    assert (live.last_success, live.last_success_timestamp) == (True, 2000.0)


@pytest.mark.parametrize("text", ["basic_auth_users: [", "", "basic_auth_users: {bob: hunter2}"])
async def test_bad_or_weaker_file_leaves_the_old_one_in_force(tmp_path: Path, text: str) -> None:
    file = tmp_path / "web.yml"
    write_users(file, "alice")
    live = ReloadedConfig(file)
    file.write_text(text)
    with capture_logs() as logs:
        for _ in range(3):
            assert set((await live.current()).config.users) == {"alice"}
    assert [line["log_level"] for line in logs] == ["error"]
    assert "hunter2" not in str(logs)
    assert not live.last_success
    write_users(file, "carol")
    assert set((await live.current()).config.users) == {"carol"}
    assert live.last_success


async def test_reload_never_turns_tls_off(pems: Path) -> None:
    file = pems / "lifted.yml"
    file.write_text(TLS % "")
    live = ReloadedConfig(file)
    file.write_text("")
    assert (await live.current()).tls is not None
    assert not live.last_success


async def test_file_that_is_missing_is_tried_again_when_it_appears(pems: Path, tmp_path: Path) -> None:
    for name in ("server.pem", "server.key"):
        (tmp_path / name).write_bytes((pems / name).read_bytes())
    file = tmp_path / "web.yml"
    file.write_text(TLS % "")
    live = ReloadedConfig(file)
    file.write_text(TLS % ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: later.pem")
    await live.current()
    assert not live.last_success
    (tmp_path / "later.pem").write_bytes((pems / "ca.pem").read_bytes())
    await live.current()
    assert live.last_success


async def test_without_a_file_nothing_is_protected() -> None:
    in_force = await ReloadedConfig(None).current()
    assert in_force.tls is None
    assert in_force.protection.passwords is None
