"""The choice of a proxy: the usual variables, the exceptions, and invalid values."""

import contextlib
import ipaddress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import ConfigError
from exporter.phonic.proxies import Proxies, Proxy, is_loopback

PHONIC = "https://api.phonic.ai"


def leads(environ: dict[str, str], url: str = PHONIC) -> str | None:
    """The address of the proxy that is used."""
    proxy = Proxies.from_environment(environ).for_url(url)
    return proxy.url if proxy else None


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, PHONIC, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, PHONIC, "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, PHONIC, "http://proxy:3128"),
        ({"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://upper:1"}, PHONIC, "http://lower:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://upper:1"}, PHONIC, "http://upper:1"),
        ({"https_proxy": "  http://proxy:1 "}, PHONIC, "http://proxy:1"),
        ({"ALL_PROXY": "http://all:1"}, PHONIC, "http://all:1"),
        ({"all_proxy": "http://all:1", "HTTPS_PROXY": "http://proxy:1"}, PHONIC, "http://proxy:1"),
        ({"HTTP_PROXY": "http://proxy:1"}, PHONIC, None),
        ({"HTTP_PROXY": "http://proxy:1"}, "http://phonic.example", "http://proxy:1"),
        ({"HTTPS_PROXY": "http://proxy:1"}, "http://phonic.example", None),
        ({"HTTP_PROXY": "http://proxy:1", "REQUEST_METHOD": "GET"}, "http://phonic.example", None),
        ({"http_proxy": "http://proxy:1", "REQUEST_METHOD": "GET"}, "http://phonic.example", "http://proxy:1"),
        ({"HTTPS_PROXY": "proxy:3128"}, PHONIC, "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy"}, PHONIC, "http://proxy:80"),
        ({"HTTPS_PROXY": "http://proxy/"}, PHONIC, "http://proxy:80"),
        ({"HTTPS_PROXY": "HTTPS://proxy"}, PHONIC, "https://proxy:443"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, PHONIC, "http://[fd00::1]:3128"),
    ],
)
def test_the_variable_of_the_scheme_names_the_proxy(environ: dict[str, str], url: str, proxy: str | None) -> None:
    assert leads(environ, url) == proxy


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.8.7", "[::1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_loopback_is_never_proxied(host: str, scheme: str) -> None:
    every = dict.fromkeys(("HTTP_PROXY", "https_proxy", "ALL_PROXY"), "http://proxy:1")
    assert leads(every, f"{scheme}://{host}:8080") is None
    assert leads(dict.fromkeys(every, "socks5://x"), f"{scheme}://{host}:8080") is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_excepted"),
    [
        ("*", "api.phonic.ai", True),
        ("api.phonic.ai", "api.phonic.ai", True),
        ("API.Phonic.ai.", "api.phonic.ai", True),
        ("api.phonic.ai", "API.PHONIC.AI", True),
        ("phonic.ai", "api.phonic.ai", True),
        (".phonic.ai", "api.phonic.ai", True),
        ("*.phonic.ai", "api.phonic.ai", True),
        (".api.phonic.ai", "api.phonic.ai", True),
        ("honic.ai", "api.phonic.ai", False),
        ("api.phonic.ai.example", "api.phonic.ai", False),
        ("example.com, api.phonic.ai", "api.phonic.ai", True),
        ("example.com api.phonic.ai", "api.phonic.ai", True),
        ("example.com,,", "api.phonic.ai", False),
        ("api.phonic.ai:443", "api.phonic.ai", True),
        ("api.phonic.ai:8443", "api.phonic.ai", False),
        (".phonic.ai:8443", "api.phonic.ai:8443", True),
        (".svc", "phonic.voice.svc", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3/8", "10.200.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("10.1.2.3:8080", "10.1.2.3:8080", True),
        ("10.1.2.3:8080", "10.1.2.3", False),
        ("fd00::/8", "[fd12::3]", True),
        ("[fd00::]/8", "[fd12::3]", True),
        ("fd00::/8", "[fe80::3]", False),
        ("fd00::1", "[fd00:0::1]", True),
        ("[fd00::1]", "[fd00::1]", True),
        ("[fd00::1]:443", "[fd00::1]", True),
        ("[fd00::1]:444", "[fd00::1]", False),
        ("10.0.0.0/8", "[::ffff:10.1.2.3]", True),
        ("10.0.0.0/8", "ten.example", False),
        ("::1/128,[::1],10.0.0.0/8,fd00::/8,.svc", "api.phonic.ai", False),
    ],
)
def test_no_proxy_takes_names_suffixes_addresses_networks_and_ports(
    no_proxy: str, host: str, is_excepted: bool
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        environ = {"HTTPS_PROXY": "http://proxy:1", name: no_proxy}
        assert (leads(environ, f"https://{host}") is None) is is_excepted
        assert Proxies.from_environment(environ).warnings == ()


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "http://example.com", "a:0", "a:99999", "[::1", "a*b", "/", ":", "::g"]
)
def test_an_invalid_entry_of_no_proxy_is_ignored_with_a_warning(entry: str) -> None:
    environ = {"HTTPS_PROXY": "http://proxy:1", "no_proxy": f"{entry},other.example"}
    proxies = Proxies.from_environment(environ)
    [(variable, reason)] = proxies.warnings
    assert variable == "no_proxy"
    assert "ignored" in reason
    assert proxies.for_url(PHONIC) is not None
    assert proxies.for_url("https://other.example") is None


@pytest.mark.parametrize(
    "value",
    [
        "socks5://me:planted@proxy:1080",
        "socks5h://proxy",
        "ftp://proxy",
        "http://",
        "http://:3128",
        "http://a:99999",
        "http://[::1",
        "http://a b",
        "http://proxy:0",
        "nonsense://x",
        "://",
    ],
)
def test_an_unusable_proxy_is_an_error_where_it_would_be_used_and_else_a_warning(value: str) -> None:
    proxies = Proxies.from_environment({"ALL_PROXY": value})
    with pytest.raises(ConfigError, match=r"^ALL_PROXY: ") as refused:
        proxies.for_url(PHONIC)
    assert "planted" not in str(refused.value)
    assert proxies.for_url("http://127.0.0.1:1") is None
    assert [variable for variable, _ in proxies.warnings] == ["ALL_PROXY"]
    beaten = Proxies.from_environment({"ALL_PROXY": value, "HTTPS_PROXY": "http://proxy:1"})
    assert beaten.for_url(PHONIC) is not None
    assert "planted" not in str(beaten.warnings)


def test_login_is_decoded_sent_and_never_shown() -> None:
    proxy = Proxies.from_environment({"HTTPS_PROXY": "http://me%40work:p%3Alanted%20%C3%A9@proxy:3128"}).for_url(
        PHONIC
    )
    assert proxy is not None
    assert proxy.login == "me@work:p:lanted é".encode()
    assert proxy.headers == {"Proxy-Authorization": "Basic bWVAd29yazpwOmxhbnRlZCDDqQ=="}
    assert proxy.url == "http://proxy:3128"
    assert "lanted" not in repr(proxy)
    assert Proxy(host="a", port=1, is_secure=False, variable="V").headers == {}


@given(st.dictionaries(st.sampled_from(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY"]), st.text()))
def test_any_text_in_a_variable_is_a_proxy_or_a_config_error(environ: dict[str, str]) -> None:
    proxies = Proxies.from_environment(environ)
    assert proxies.for_url("https://localhost") is None
    with contextlib.suppress(ConfigError):
        proxies.for_url(PHONIC)
    assert {variable for variable, _ in proxies.warnings} <= environ.keys()


@given(st.ip_addresses(), st.integers(0, 32))
def test_an_address_is_in_every_network_around_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int
) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    if not is_loopback(str(address)):
        assert leads({"https_proxy": "http://p", "no_proxy": f"{address}/{bits}"}, f"https://{host}") is None


def test_loopback_is_recognised() -> None:
    for host, port in product(("localhost", "127.0.0.1", "::1", "::ffff:127.0.0.1"), ("", ".")):
        assert is_loopback(host) or port
    assert not any(map(is_loopback, ("", "127.evil.example", "localhost.example", "10.0.0.1", "::2", "128.0.0.1")))
