"""Listen addresses: their syntax, errors, and connections to each."""

import os
import socket
from urllib.parse import urlsplit

import pytest
import trio

from exporter.errors import ConfigError
from exporter.web.listen import bind, inherit, parse_address
from tests.integration.serving import GET_METRICS, serving, status_of


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":9100", ("", 9100)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9100", ("::1", 9100)),
        ("[::]:65535", ("::", 65535)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("exporter.example:80", ("exporter.example", 80)),
        ("vsock://:9100", ("vsock://", 9100)),
        ("vsock://3:4294967295", ("vsock://3", 4294967295)),
    ],
)
def test_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        "9100",
        "localhost",
        "::1:9100",
        "[::1]",
        "a:b",
        ":65536",
        ":-1",
        "http://a:1",
        "a b:1",
        ":1\n",
        "[]:1",
        "vsock://",
        "vsock://:",
        "vsock://9100",
        "vsock://a:1",
        "vsock://:4294967296",
        "vsock://4294967296:1",
    ],
)
def test_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(address)
    assert refused.value.flag == "--web.listen-address"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("no-such-host.invalid:0", "cannot resolve the host"),
        ("192.0.2.1:0", "this machine does not have that address"),
    ],
)
def test_address_that_cannot_be_used_is_refused(address: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        bind([address])


async def test_port_in_use_is_a_config_error() -> None:
    async with serving() as served:
        host, port = served.address
        for address in (f"{host}:{port}", f":{port}"):
            with pytest.raises(ConfigError, match="address already in use") as refused:
                bind(["127.0.0.1:0", address])
            assert refused.value.flag == "--web.listen-address"


async def test_all_addresses_means_both_families_on_one_port() -> None:
    async with serving(addresses=(":0",)) as served:
        port = urlsplit(served.url).port
        hosts = ("127.0.0.1", "[::1]") if socket.has_dualstack_ipv6() else ("127.0.0.1",)
        assert [await status_of(f"http://{host}:{port}/metrics") for host in hosts] == [200] * len(hosts)


async def test_server_listens_on_every_address() -> None:
    async with serving(addresses=("127.0.0.1:0", "localhost:0")) as served:
        assert len(served.urls) >= 2
        for url in served.urls:
            assert await status_of(f"{url}/metrics") == 200


# Of linux/vm_sockets.h; Python's socket module has had it only since 3.14.
_VMADDR_CID_LOCAL = 1


def has_vsock() -> bool:
    """Whether this kernel can connect to itself over vsock."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listening:
            listening.bind((_VMADDR_CID_LOCAL, socket.VMADDR_PORT_ANY))
            listening.listen()
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
                client.settimeout(1)
                client.connect((_VMADDR_CID_LOCAL, listening.getsockname()[1]))
    except (OSError, AttributeError):
        return False
    return True


@pytest.mark.skipif(not has_vsock(), reason="no vsock loopback in this kernel")
async def test_server_listens_on_vsock() -> None:
    async with serving(addresses=("vsock://:0",)) as served:
        assert served.url.startswith("vsock://:")
        port = int(served.url.rpartition(":")[2])
        client = trio.socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        await client.connect((_VMADDR_CID_LOCAL, port))
        async with trio.SocketStream(client) as stream:
            await stream.send_all(GET_METRICS)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


def test_unavailable_vsock_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"--web\.listen-address: cannot listen on vsock://77:1"):
        bind(["vsock://77:1"])


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"},
    ],
)
def test_sockets_passed_to_another_process_are_not_used(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"--web\.systemd-socket: no socket was passed"):
        inherit(environ)
    assert environ == {}
