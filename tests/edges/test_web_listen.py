"""Listen addresses: what they may be, and that each is really listened on."""

import socket
from urllib.parse import urlsplit

import pytest

from exporter.errors import ConfigError
from exporter.web.listen import bind, parse_address
from tests.edges.serving import serving, status_of


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":9100", ("", 9100)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9100", ("::1", 9100)),
        ("[::]:65535", ("::", 65535)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("exporter.example:80", ("exporter.example", 80)),
    ],
)
def test_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    ["", "9100", "localhost", "::1:9100", "[::1]", "a:b", ":65536", ":-1", "http://a:1", "a b:1", ":1\n", "[]:1"],
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


async def test_port_in_use_is_a_setting_to_mend() -> None:
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


async def test_every_address_is_listened_on() -> None:
    async with serving(addresses=("127.0.0.1:0", "localhost:0")) as served:
        assert len(served.urls) >= 2
        for url in served.urls:
            assert await status_of(f"{url}/metrics") == 200
