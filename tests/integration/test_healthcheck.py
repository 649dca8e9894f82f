"""The health check with real servers: what counts as healthy, over HTTP and TLS."""

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from exporter import cli
from exporter.errors import ConfigError
from exporter.web.healthcheck import trouble_at


def is_healthy(address: str, *, maybe_tls: bool) -> bool:
    return trouble_at(address, maybe_tls=maybe_tls) is None


@contextmanager
def answering(status: int, *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run a server on loopback that answers /-/healthy with one status; yields its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/-/healthy" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:  # failed handshakes are expected
            pass

    with Server(("127.0.0.1", 0), Answer) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server_context(tmp_path: Path) -> ssl.SSLContext:
    """Return a context with a self-signed certificate that is also the only authority for clients."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=elsewhere.example", "-days", "1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    return context


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (401, True), (503, False), (500, False), (404, False)]
)
@pytest.mark.parametrize("maybe_tls", [False, True])
def test_status_decides_over_plain_http(status: int, healthy: bool, maybe_tls: bool) -> None:
    with answering(status) as port:
        assert is_healthy(f"127.0.0.1:{port}", maybe_tls=maybe_tls) is healthy


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_status_decides_over_tls_with_any_certificate(
    server_context: ssl.SSLContext, status: int, healthy: bool
) -> None:
    with answering(status, tls=server_context) as port:
        assert is_healthy(f"127.0.0.1:{port}", maybe_tls=True) is healthy
        assert not is_healthy(f"127.0.0.1:{port}", maybe_tls=False)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_server_that_requires_a_client_certificate_is_healthy(
    server_context: ssl.SSLContext, newest: ssl.TLSVersion
) -> None:
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.maximum_version = newest
    with answering(200, tls=server_context) as port:
        assert is_healthy(f"127.0.0.1:{port}", maybe_tls=True)


def test_address_of_all_interfaces_is_checked_on_loopback() -> None:
    with answering(200) as port:
        assert is_healthy(f":{port}", maybe_tls=False)
        assert is_healthy(f"0.0.0.0:{port}", maybe_tls=False)
        assert is_healthy(f"[::]:{port}", maybe_tls=False)
    assert not is_healthy(f":{port}", maybe_tls=True)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "nonsense"])
def test_address_without_a_fixed_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^--web\.listen-address: "):
        is_healthy(address, maybe_tls=False)


def test_command_exits_0_or_1(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200) as port, pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main(["healthcheck", f"--web.listen-address=127.0.0.1:{port}"])
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 1):
        cli.main(["healthcheck", f"--web.listen-address=127.0.0.1:{port}"])
    assert capsys.readouterr().err.startswith("phonic-exporter: error: healthcheck: ")
