"""TLS on real connections: versions, client certificates, rotation, and silent clients."""

import ssl
from pathlib import Path

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from exporter.web.reload import ReloadedConfig
from tests.integration.serving import GET_METRICS, TLS, Served, serving, status_of, web_config
from tests.unit.certificates import make_authority, make_certificate, trusting


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    make_certificate(folder, "server", sans="IP:127.0.0.1,DNS:localhost")
    make_certificate(folder, "renewed", sans="IP:127.0.0.1,DNS:localhost")
    make_authority(folder, "client-ca")
    make_certificate(folder, "prometheus", sans="DNS:prometheus.example", authority="client-ca")
    make_certificate(folder, "stranger", sans="DNS:stranger.example", authority="client-ca")
    return folder


@pytest.fixture
def pems(made: Path, tmp_path: Path) -> Path:
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "http2", ["", "http_server_config: {http2: true}\n", "http_server_config: {http2: false}\n"]
)
async def test_tls_speaks_http_1_only_whatever_the_file_says(pems: Path, http2: str) -> None:
    async with serving(config=web_config(pems, TLS % "" + http2)) as served:
        assert served.url.startswith("https://")
        async with httpx.AsyncClient(verify=trusting(pems)) as http:
            answer = await http.get(f"{served.url}/metrics")
            assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
        offering = trusting(pems)
        offering.set_alpn_protocols(["h2", "http/1.1"])
        stream = await trio.open_ssl_over_tcp_stream(*served.address, ssl_context=offering)
        async with stream:
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() == "http/1.1"


async def test_silent_client_does_not_hold_up_tls_handshakes(pems: Path) -> None:
    async with (
        serving(config=web_config(pems, TLS % "")) as served,
        await trio.open_tcp_stream(*served.address),
        await trio.open_tcp_stream(*served.address),
    ):
        with trio.fail_after(5):
            assert await status_of(f"{served.url}/metrics", verify=trusting(pems)) == 200


async def test_plain_http_on_a_tls_port_gets_a_400(pems: Path) -> None:
    config = web_config(pems, TLS % "")
    async with serving(config=config) as served, await trio.open_tcp_stream(*served.address) as stream:
        await stream.send_all(GET_METRICS)
        answer = b"".join([part async for part in stream])
        assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")


async def end_of(served: Served, client: ssl.SSLContext) -> str:
    """Return OpenSSL's reason for the end of a refused connection."""
    stream = await trio.open_ssl_over_tcp_stream(*served.address, ssl_context=client)
    async with stream:
        try:
            await stream.send_all(GET_METRICS)
            await stream.receive_some()
        except trio.BrokenResourceError as broken:
            return getattr(broken.__cause__, "reason", None) or ""
    raise AssertionError("not refused")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_refused_handshake_sends_an_alert(pems: Path, version: ssl.TLSVersion) -> None:
    mutual = ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: client-ca.pem"
    async with serving(config=web_config(pems, TLS % mutual)) as served:
        anonymous = trusting(pems)
        anonymous.minimum_version = anonymous.maximum_version = version
        assert "ALERT" in await end_of(served, anonymous)


async def test_no_common_version_ends_in_an_alert(pems: Path) -> None:
    async with serving(config=web_config(pems, TLS % ", min_version: TLS13")) as served:
        old = trusting(pems)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await end_of(served, old) == "TLSV1_ALERT_PROTOCOL_VERSION"


async def test_tls_versions_below_the_minimum_are_refused(pems: Path) -> None:
    async with serving(config=web_config(pems, TLS % ", min_version: TLS13")) as served:
        old = trusting(pems)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx.ConnectError):
            await status_of(f"{served.url}/metrics", verify=old)


async def test_only_clients_with_a_certificate_of_the_authority_are_served(pems: Path) -> None:
    mutual = ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: client-ca.pem"
    async with serving(config=web_config(pems, TLS % mutual)) as served:
        page = f"{served.url}/metrics"
        assert await status_of(page, verify=trusting(pems, "prometheus")) == 200
        for wrong in (None, "server"):
            with pytest.raises(httpx.TransportError):
                await status_of(page, verify=trusting(pems, wrong))


async def test_only_clients_with_an_allowed_name_are_served(pems: Path) -> None:
    named = (
        ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: client-ca.pem,"
        " client_allowed_sans: [prometheus.example]"
    )
    async with serving(config=web_config(pems, TLS % named)) as served:
        page = f"{served.url}/metrics"
        assert await status_of(page, verify=trusting(pems, "prometheus")) == 200
        with capture_logs(), pytest.raises(httpx.TransportError):
            await status_of(page, verify=trusting(pems, "stranger"))


async def test_renewed_certificate_is_used_for_the_next_connection(pems: Path) -> None:
    live = ReloadedConfig(web_config(pems, TLS % ""))

    async def certificate() -> bytes:
        stream = await trio.open_ssl_over_tcp_stream(*served.address, ssl_context=trusting(pems))
        async with stream:
            await stream.do_handshake()
            shown = stream.getpeercert(binary_form=True)
            assert isinstance(shown, bytes)
            return shown

    def der(name: str) -> bytes:
        return ssl.PEM_cert_to_DER_cert((pems / f"{name}.pem").read_text())

    original = der("server")
    async with serving(config=live) as served:
        assert await certificate() == original
        (pems / "renewed.pem").replace(pems / "server.pem")  # not yet the key, so the old pair stays in force
        with capture_logs():
            assert await certificate() == original
        assert not live.last_success
        (pems / "renewed.key").replace(pems / "server.key")
        assert await certificate() == der("server") != original
        assert live.last_success


async def test_client_authority_rotates(pems: Path) -> None:
    mutual = ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: %s.pem"
    async with serving(config=web_config(pems, TLS % mutual % "client-ca")) as served:
        page = f"{served.url}/metrics"
        assert await status_of(page, verify=trusting(pems, "prometheus")) == 200
        web_config(pems, TLS % mutual % "ca")
        with pytest.raises(httpx.TransportError):
            await status_of(page, verify=trusting(pems, "prometheus"))
