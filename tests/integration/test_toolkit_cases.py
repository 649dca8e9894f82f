"""The web configuration file works as in other exporters: the toolkit's cases, on real connections."""

import base64
import ssl
import warnings
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trio
import yaml
from structlog.testing import capture_logs

from exporter.errors import ConfigError
from exporter.web.reload import ReloadedConfig
from exporter.web.server import validate
from tests.integration.serving import Served, serving
from tests.unit.certificates import make_authority, make_certificate, trusting

DATA = Path(__file__).parents[1] / "data" / "toolkit_cases.yml"
CASES: list[dict[str, Any]] = yaml.safe_load(DATA.read_text())
HASH = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toolkit")
    make_authority(folder)
    make_certificate(folder, "server", sans="IP:127.0.0.1,DNS:localhost")
    make_authority(folder, "authority")
    make_certificate(folder, "client", sans="DNS:one", authority="authority")
    make_authority(folder, "stranger")
    return folder


def config_of(case: dict[str, Any], pems: Path) -> Path | None:
    """Write the file of a case; return its path, or None without one."""
    if "path" in case:
        return Path(pems / case["path"])
    text = case.get("file", "")
    if text is None:
        return None
    if "tls" in case:
        text = f"tls_server_config: {{cert_file: server.pem, key_file: server.key, {case['tls']}}}\n"
    if case.get("inline"):
        inline = (
            f"  {key}: |{indented(pems / f'server.{end}')}\n" for key, end in (("cert", "pem"), ("key", "key"))
        )
        text = "tls_server_config:\n" + "".join(inline)
    file = pems / "web.yml"
    file.write_text((text + case.get("more", "")).replace("HASH", HASH))
    return file


def indented(pem: Path) -> str:
    return "".join(f"\n    {line}" for line in pem.read_text().splitlines())


def by_outcome(*outcomes: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["outcome"] in outcomes]


def test_every_case_has_an_outcome_that_is_tested() -> None:
    tested = {"refused", "served", "handshake", "too many", "login", "told"}
    assert {case["outcome"] for case in CASES} == tested
    assert len({case["name"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", by_outcome("refused"))
def test_file_is_refused(case: dict[str, Any], pems: Path) -> None:
    file = config_of(case, pems)
    assert file is not None
    with pytest.raises(ConfigError) as refused:
        validate(file)
    assert case["words"] in refused.value.reason


@pytest.mark.parametrize("case", by_outcome("served", "handshake", "too many", "login", "told"))
async def test_file_serves_the_clients_it_allows(case: dict[str, Any], pems: Path) -> None:
    client = case.get("client", {})
    with capture_logs():
        async with serving(config=ReloadedConfig(config_of(case, pems))) as served:
            context = None
            if served.url.startswith("https") and client.get("tls", True):
                context = client_context(client, pems)
            if case["outcome"] == "handshake":
                with pytest.raises(trio.BrokenResourceError):
                    await ask(served, context, client)
                return
            answers = [await ask(served, context, client) for _ in range(client.get("requests", 1))]
    expected = {"served": 200, "too many": 429, "login": 401, "told": 400}
    assert answers[-1][0] == expected[case["outcome"]]
    if "cipher" in case:
        assert answers[0][1] == case["cipher"]


def client_context(client: dict[str, Any], pems: Path) -> ssl.SSLContext:
    context = trusting(pems, client.get("certificate"))
    if "most" in client:
        version = client["most"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        context.set_ciphers("ALL:@SECLEVEL=0")
    if "ciphers" in client:
        context.set_ciphers(client["ciphers"] + (":@SECLEVEL=0" if "most" in client else ""))
    if "curve" in client:
        context.set_ecdh_curve(client["curve"])
    return context


async def ask(served: Served, context: ssl.SSLContext | None, client: dict[str, Any]) -> tuple[int, str | None]:
    """Return the status of a page, and the TLS cipher."""
    stream: Any = await trio.open_tcp_stream(*served.address)
    if context is not None:
        stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
    login = ""
    if "user" in client:
        login = f"Authorization: Basic {base64.b64encode(client['user'].encode()).decode()}\r\n"
    async with stream:
        await stream.send_all(f"GET /metrics HTTP/1.1\r\nHost: a\r\n{login}Connection: close\r\n\r\n".encode())
        said = b"".join([bytes(part) async for part in stream])
        if not said:
            raise trio.BrokenResourceError("closed without an answer")
        return int(said.split()[1]), stream.cipher()[0] if context is not None else None
