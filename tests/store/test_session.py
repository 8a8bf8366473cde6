"""The session's connection: stores that go away, hang, or misbehave; reconnection; character devices."""
import contextlib
import errno
import os
import pty
import select
import socket
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyxs._internal import Op

from tests.store.tools import dispatch_until, refused, settled
from xenvbd.errors import StoreError
from xenvbd.store import Store, Transaction
from xenvbd.store.session import HEADER
from xenvbd.store_sim import SimStore

Connect = Callable[..., Store]
Answer = Callable[[socket.socket, bytes], None]


def lose(store: Store) -> None:
    """Cut the store's connection."""
    store._session._connection.transport.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def fake(shm: Path) -> Iterator[Callable[[Answer], str]]:
    """Serves one client with a function that gets the socket and each chunk received."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(shm / "fake"))
    listener.listen(1)
    threads: list[threading.Thread] = []

    def serve(answer: Answer) -> str:
        def run() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client:
                    while chunk := client.recv(65536):
                        answer(client, chunk)
        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return str(shm / "fake")

    yield serve
    listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    listener.close()


def reply(chunk: bytes, payload: bytes, op: int | None = None) -> bytes:
    """The answer to the request in chunk."""
    asked, request, tx, _ = HEADER.unpack_from(chunk)
    return HEADER.pack(asked if op is None else op, request, tx, len(payload)) + payload


# A store that goes away


@pytest.mark.parametrize("cut", [0, 1, 16, 18])
def test_a_store_that_closes_the_socket_mid_request_is_econnreset_at_once(fake, cut: int) -> None:
    def answer(client: socket.socket, chunk: bytes) -> None:
        client.sendall(reply(chunk, b"value")[:cut])
        client.shutdown(socket.SHUT_RDWR)

    with Store(fake(answer), timeout=60) as store:
        with refused(errno.ECONNRESET):
            store.read("/a")
        assert not store.connected


def test_a_store_that_does_not_answer_is_given_up_in_time(fake) -> None:
    with Store(fake(lambda client, chunk: None), timeout=0.05) as store:
        with refused(errno.ETIMEDOUT):
            store.read("/a")
        with refused(errno.ENOTCONN):
            store.read("/a")


def test_a_store_that_does_not_read_is_given_up_in_time(shm: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(shm / "deaf"))
        listener.listen(1)
        with Store(str(shm / "deaf"), timeout=0.1) as store:
            with contextlib.suppress(BlockingIOError):
                while os.write(store._session._connection.fileno(), bytes(65536)):
                    pass
            with refused(errno.ETIMEDOUT):
                store.write("/a", b"x" * 4000)


def test_a_stopped_store_with_a_full_backlog_cannot_be_waited_for_for_ever(shm: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(shm / "full"))
        listener.listen(0)
        with Store(str(shm / "full"), timeout=0.1), refused(errno.ETIMEDOUT):
            Store(str(shm / "full"), timeout=0.1)


def test_connecting_to_nothing_says_what_is_missing(shm: Path) -> None:
    with refused(errno.ENOENT) as info:
        Store(str(shm / "nothing"))
    assert info.value.path == str(shm / "nothing")
    (shm / "file").touch()
    with refused(errno.ECONNREFUSED):
        Store(str(shm / "file"))


def test_a_loss_is_told_once_wherever_it_is_noticed(connect: Connect) -> None:
    told: list[StoreError] = []
    for notice in (lambda store: store.read("/"), lambda store: store.dispatch(),
                   lambda store: store.watch("/", print)):
        store = connect()
        store.on_lost = told.append
        lose(store)
        with contextlib.suppress(StoreError):
            notice(store)
        with refused(errno.ENOTCONN):
            store.read("/")
        assert store.dispatch() == 0
    assert [error.errno in (errno.ECONNRESET, errno.EPIPE) for error in told] == [True] * 3


def test_dispatch_raises_a_loss_that_nobody_else_is_told(connect: Connect) -> None:
    store = connect()
    lose(store)
    with refused(errno.ECONNRESET):
        store.dispatch()


def test_a_lost_connection_makes_the_descriptor_readable(connect: Connect) -> None:
    store = connect()
    lose(store)
    assert select.select([store.fileno()], [], [], 5)[0]


def test_garbage_from_the_store_ends_the_connection(fake) -> None:
    with Store(fake(lambda client, chunk: client.sendall(HEADER.pack(2, 0, 0, 1 << 31)))) as store, \
            refused(errno.EPROTO):
        store.read("/a")


def test_an_answer_in_small_pieces_is_put_together(fake) -> None:
    def answer(client: socket.socket, chunk: bytes) -> None:
        for byte in reply(chunk, b"value"):
            client.sendall(bytes([byte]))

    with Store(fake(answer)) as store:
        assert store.read("/a") == b"value"


def test_an_answer_to_a_request_given_up_is_not_taken_for_the_next(fake) -> None:
    def answer(client: socket.socket, chunk: bytes) -> None:
        _, request, tx, _ = HEADER.unpack_from(chunk)
        client.sendall(HEADER.pack(2, request - 1 & 0xFFFFFFFF, tx, 3) + b"old" + reply(chunk, b"new"))

    with Store(fake(answer)) as store:
        assert store.read("/a") == b"new"


@pytest.mark.parametrize("name", ["EINVAL", "EACCES", "ENOSPC", "E2BIG", "EPERM", "EROFS"])
def test_an_error_answer_becomes_its_errno(fake, name: str) -> None:
    answer = name.encode() + b"\0"
    with Store(fake(lambda client, chunk: client.sendall(reply(chunk, answer, Op.ERROR)))) as store, \
            refused(getattr(errno, name)):
        store.read("/a")


def test_an_error_answer_nobody_knows_is_eio(fake) -> None:
    with Store(fake(lambda client, chunk: client.sendall(reply(chunk, b"\xffQUOTA\0", Op.ERROR)))) as store, \
            refused(errno.EIO):
        store.read("/a")


def test_a_directory_whose_parts_never_end_is_refused(fake) -> None:
    with Store(fake(lambda client, chunk: client.sendall(reply(chunk, b"1\0name\0")))) as store, \
            refused(errno.EPROTO):
        store._long_directory("/a", 0)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(payload=st.binary(max_size=60), op=st.sampled_from([None, 2, 15, 16, 22, 0xFFFF]))
def test_whatever_a_store_answers_only_storeerror_comes_out(fake, payload: bytes, op: int | None) -> None:
    path = fake(lambda client, chunk: client.sendall(reply(chunk, payload, op) + reply(chunk, b"\0")))
    with Store(path, timeout=1) as store:
        for verb in (store.read, store.ls, store.get_perms, lambda path: store._long_directory(path, 0),
                     lambda path: store.transaction(lambda tx: None), lambda path: store.watch(path, print),
                     lambda path: store.domid, lambda path: store.domain_path(1), lambda path: store.dispatch()):
            with contextlib.suppress(StoreError):
                verb("/a")


def test_a_transaction_does_not_outlive_its_connection(dom0: Store) -> None:
    """The next connection may give its id to another transaction."""
    def change(tx: Transaction) -> None:
        dom0.reconnect()
        assert dom0._begin() == tx._id
        tx.write("/a", b"")

    with refused(errno.ECONNRESET):
        dom0.transaction(change)
    assert not dom0.exists("/a")


# Reconnection


def test_reconnection_restores_the_watches_which_fire_again(dom0: Store, connect: Connect) -> None:
    fired: list[str] = []
    watch, cancelled = dom0.watch("/a", fired.append), dom0.watch("/b", fired.append)
    dom0.watch("@releaseDomain", fired.append)
    cancelled.cancel()
    fd = dom0.fileno()
    lose(dom0)
    with refused(errno.ECONNRESET):
        dom0.dispatch()
    dom0.reconnect()
    settled(dom0)
    assert sorted(fired) == ["/a", "@releaseDomain"]
    connect().write("/a/x", b"")
    dispatch_until(lambda: fired[2:] == ["/a/x"], dom0)
    watch.cancel()
    assert dom0.fileno() == fd


def test_a_watch_can_be_cancelled_while_the_store_is_away(dom0: Store) -> None:
    fired: list[str] = []
    watch, lost_meanwhile = dom0.watch("/a", fired.append), dom0.watch("/b", fired.append)
    lose(dom0)
    lost_meanwhile.cancel()
    assert not dom0.connected
    watch.cancel()
    dom0.reconnect()
    settled(dom0)
    assert fired == []


def test_on_lost_may_reconnect_at_once(dom0: Store) -> None:
    fired: list[str] = []
    dom0.watch("/a", fired.append)
    settled(dom0)
    dom0.on_lost = lambda error: dom0.reconnect()
    lose(dom0)
    dispatch_until(lambda: fired == ["/a", "/a"], dom0)
    assert dom0.read("/") == b""


def test_a_reconnection_that_fails_can_be_tried_again(shm: Path) -> None:
    with SimStore(shm) as sim:
        store = Store(sim.path())
    with store:
        with refused(errno.ENOENT):
            store.reconnect()
        with refused(errno.ENOTCONN):
            store.read("/")
        with SimStore(shm):
            store.reconnect()
            assert store.read("/") == b""


# A character device, such as /dev/xen/xenbus


@pytest.fixture
def device(machine) -> Iterator[str]:
    """A character device that leads to the store: a terminal in raw mode, with a thread that copies."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    done, stop = os.pipe()
    with socket.socket(socket.AF_UNIX) as store:
        store.connect(machine.path())

        def copy() -> None:
            while done not in (ready := select.select([master, store, done], [], [])[0]):
                if master in ready:
                    store.sendall(os.read(master, 4096))
                if store in ready:
                    os.write(master, store.recv(1024))

        thread = threading.Thread(target=copy)
        thread.start()
        yield os.ttyname(slave)
        os.write(stop, b"x")
        thread.join()
    for fd in (master, slave, done, stop):
        os.close(fd)


def test_a_character_device_works_and_is_never_written_nothing(device: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, write, fired = [], os.write, []
    monkeypatch.setattr(os, "write", lambda fd, data: (sizes.append(len(data)), write(fd, data))[1])
    with Store(device) as store:
        store.write("/a", b"")
        store.watch("/a", fired.append)
        assert store.transaction(lambda tx: tx.read("/a")) == b""
        dispatch_until(lambda: fired == ["/a"], store)
    assert min(sizes) > 0


def test_a_character_device_takes_16_bytes_less_because_linux_counts_the_header(device: str) -> None:
    with Store(device) as store:
        store.write("/a", b"x" * (4080 - len("/a\0")))
        with refused(errno.E2BIG):
            store.write("/a", b"x" * (4081 - len("/a\0")))


def test_a_request_that_the_device_refuses_costs_no_connection(device: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel answers some requests with the errno of write(), and has forgotten them then."""
    def refuse(fd: int, data: bytes) -> int:
        raise OSError(errno.EEXIST, "File exists")

    with Store(device) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            with refused(errno.EEXIST) as info:
                store.watch("/a", print)
        assert info.value.path == "/a"
        assert store.read("/") == b""
