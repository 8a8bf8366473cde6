"""Hostile cases C: clients of the control socket that send too much, too little, or nothing at all.

Only root gets this far; what he can hold of the daemon is bounded all the same."""
import contextlib
import errno
import gc
import json
import os
import socket

import pytest

from tests.support import control as support
from tests.support.growth import growing, resident
from tests.support.guest import until
from xenvbd.control import MAX_CLIENTS, MAX_REQUEST, Client
from xenvbd.errors import ControlError, exit_code

MIB = (1 << 20) * (64 if os.environ.get("XENVBD_SANITIZED") else 1)     # a sanitizer keeps what was freed


class Daemon(support.Daemon):
    """A control socket that knows one verb."""

    def __init__(self, path: str, idle: float = 60.0) -> None:
        super().__init__(path, lambda verb, params, reply: reply(params), idle)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.settimeout(20)
        return sock

    def answers(self) -> bool:
        return Client(self.path).call("echo", a=1) == {"a": 1}


@pytest.fixture
def daemon(tmp_path):
    """A daemon that holds no more descriptors afterwards than before."""
    gc.collect()                    # what earlier tests left open would be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    made = Daemon(str(tmp_path / "control.sock"))
    yield made
    made.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def pour(sock: socket.socket, chunk: bytes, total: int) -> int:
    """Send so many bytes, or as many as are taken; how many."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < total:
            sent += sock.send(chunk)
    return sent


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"\0" * 65536, b'{"verb":"echo","params":{"a":"' + b"y" * 65500,
                                   os.urandom(65536).replace(b"\n", b" ")], ids=["text", "zeros", "json", "random"])
def test_C2_a_gibibyte_without_an_end_is_refused_after_its_first_64_kib(daemon, chunk: bytes) -> None:
    def span() -> None:
        with daemon.connect() as sock:
            assert pour(sock, chunk, 1 << 30) <= MAX_REQUEST + 16 * MIB, "what the socket itself can hold, and no more"

    assert growing(span, lambda: resident(step=MIB)) == {} and daemon.answers()


def test_C2_half_a_request_and_then_nothing(daemon) -> None:
    for half in b"", b"{", b'{"id": 1, "verb": "ec', b'{"id": 1, "verb": "echo"}':
        with daemon.connect() as sock:
            sock.sendall(half)
    assert daemon.answers()
    until(lambda: not daemon.server.clients)


def test_C2_garbage_of_every_kind_is_an_error_each(daemon) -> None:
    with daemon.connect() as sock:
        file = sock.makefile("rb")
        for _ in range(200):
            sock.sendall(os.urandom(40).replace(b"\n", b" ") + b"\n")
            assert json.loads(file.readline())["error"]["class"] == "PropertyError"
        file.close()
    assert daemon.answers()


def test_C2_requests_without_end_whose_replies_nobody_reads(daemon) -> None:
    before = resident(step=MIB)["resident"]
    line = json.dumps({"id": 1, "verb": "echo", "params": {"a": "z" * 60000}}).encode() + b"\n"
    with daemon.connect() as sock:
        sock.settimeout(2)
        with contextlib.suppress(TimeoutError):
            pour(sock, line, 1 << 28)
        assert resident(step=MIB)["resident"] - before < 64, "of 256 that were offered"
    assert daemon.answers()


def test_C3_a_thousand_that_send_a_byte_and_wait(tmp_path) -> None:
    """As many as there may be are kept, for a time; the others are told so, and leave nothing."""
    daemon = Daemon(str(tmp_path / "control.sock"), idle=20.0)
    socks, refused = [], 0
    try:
        for _ in range(1000):
            sock = daemon.connect()
            with contextlib.suppress(ConnectionError):
                sock.send(b"{")
            socks.append(sock)
            assert len(daemon.server.clients) <= MAX_CLIENTS
        for sock in socks[MAX_CLIENTS:]:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                refused += json.loads(sock.recv(4096))["error"]["errno"] == errno.EBUSY
        assert refused > 500
        daemon.server.idle = 0.1
        until(lambda: not daemon.server.clients, 60)        # the idle are closed
        assert daemon.answers()
    finally:
        for sock in socks:
            sock.close()
        daemon.stop()


def test_C4_as_many_clients_as_there_may_be_keep_another_out_and_say_so(daemon) -> None:
    socks = [daemon.connect() for _ in range(MAX_CLIENTS)]
    with pytest.raises(ControlError) as caught:
        while True:
            daemon.answers()
    assert caught.value.errno == errno.EBUSY and exit_code(caught.value) == 5
    for sock in socks:
        sock.close()
    until(lambda: not daemon.server.clients, 60)
    assert daemon.answers()
