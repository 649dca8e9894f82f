"""TLS on real connections: versions, client certificates, rotation, and clients that never shake hands."""

import ssl
from pathlib import Path

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from exporter.web.live_config import LiveConfig
from tests.edges.serving import GET_METRICS, TLS, serving, status_of, web_config
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


async def test_tls_serves_http_2_and_1(pems: Path) -> None:
    async with serving(config=web_config(pems, TLS % "")) as served:
        assert served.url.startswith("https://")
        for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
            async with httpx.AsyncClient(verify=trusting(pems), http2=http2) as http:
                answer = await http.get(f"{served.url}/metrics")
                assert (answer.status_code, answer.http_version) == (200, version)


async def test_http_2_can_be_turned_off(pems: Path) -> None:
    config = web_config(pems, TLS % "" + "http_server_config: {http2: false}\n")
    async with serving(config=config) as served, httpx.AsyncClient(verify=trusting(pems), http2=True) as http:
        assert (await http.get(f"{served.url}/metrics")).http_version == "HTTP/1.1"


async def test_silent_client_does_not_hold_up_tls_handshakes(pems: Path) -> None:
    async with (
        serving(config=web_config(pems, TLS % "")) as served,
        await trio.open_tcp_stream(*served.address),
        await trio.open_tcp_stream(*served.address),
    ):
        with trio.fail_after(5):
            assert await status_of(f"{served.url}/metrics", verify=trusting(pems)) == 200


async def test_plain_http_to_tls_is_refused(pems: Path) -> None:
    config = web_config(pems, TLS % "")
    async with serving(config=config) as served, await trio.open_tcp_stream(*served.address) as stream:
        await stream.send_all(GET_METRICS)
        assert b"up 1" not in b"".join([part async for part in stream])


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
    live = LiveConfig(web_config(pems, TLS % ""))

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
        (pems / "renewed.pem").replace(pems / "server.pem")  # not yet the key: the old pair stays
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
