"""The simulated store's sockets: DIR/store.N is domain N's, so the server knows who is talking.

One loop serves all, in a thread of the caller's choice or in a process (python -m xenvbd.store_sim)."""
from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from xenvbd.store_sim import domain
from xenvbd.store_sim.connection import BadClient, Connection
from xenvbd.store_sim.daemon import Daemon
from xenvbd.store_sim.faults import Faults
from xenvbd.store_sim.journal import Journal
from xenvbd.store_sim.local import Local
from xenvbd.store_sim.requests import handle, refuse

T = TypeVar("T")

CHUNK = 65536


class Client:
    """A connection and its socket."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self.connection = connection
        self.paused_until = 0.0


class SimStore:
    """The store of the machine in a directory.

    Domains given are created as xl would create them, unless the journal of an earlier store in the directory
    has them.  Nothing is served before start() or run()."""

    def __init__(self, directory: str | os.PathLike[str], domids: Iterable[int] = (0,)) -> None:
        self.directory = Path(directory)
        self.daemon = Daemon()
        self._listeners: dict[int, socket.socket] = {}
        self._clients: dict[int, Client] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._journal = Journal(self.directory / "store.journal", self.daemon)
        if not self._journal.load():
            self.daemon.tree.plant()
        self._journal.compact()
        for domid in domids:
            if not self.local.exists(f"/local/domain/{domid}"):
                self._create(domid, f"domain{domid}", True)
        self._follow()

    def __enter__(self) -> SimStore:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    # What a test asks for; from any thread

    @property
    def faults(self) -> Faults:
        """Faults to be injected; set its fields."""
        return self.daemon.faults

    @property
    def local(self) -> Local:
        """The store as dom0 sees it, without a socket.  Only inside call() once the store runs."""
        return Local(self.daemon)

    def path(self, domid: int = 0) -> str:
        """The socket of a domain."""
        return str(self.directory / f"store.{domid}")

    def add_domain(self, domid: int, name: str | None = None, pv: bool = True) -> None:
        """Create a domain as xl does: its nodes, its introduction; its socket is there on return."""
        self.call(lambda: self._create(domid, name or f"domain{domid}", pv))

    def remove_domain(self, domid: int) -> None:
        """Destroy a domain as xl does: its nodes go, its clients are disconnected, @releaseDomain fires."""
        self.call(lambda: domain.destroy(self.local, domid))

    def drop_connections(self, domid: int | None = None) -> None:
        """Disconnect the clients of one domain, or all."""
        self.call(lambda: self._hang_up(domid))

    def call(self, fn: Callable[[], T]) -> T:
        """Run fn between two requests, wherever the loop runs, and return what it returns."""
        def turn() -> T:
            result = fn()
            self._finish_turn()
            return result

        if self._thread is None or self._thread is threading.current_thread():
            return turn()
        future: Future[T] = Future()
        self._calls.append(lambda: _settle(future, turn))
        os.eventfd_write(self._wake, 1)
        return future.result(timeout=10)

    # Running

    def start(self) -> SimStore:
        """Serve in a thread."""
        self._thread = threading.Thread(target=self.run, name="store_sim", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End serving; sockets go, the journal stays."""
        if self._thread is not None:
            self.shut_down()
            self._thread.join()
            self._thread = None
        self._close()

    def shut_down(self) -> None:
        """Make run() return; from any thread or a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Serve until shut_down().  If it fails, clients are not left waiting."""
        try:
            while not self._stopping:
                self.step(None)
        except BaseException:
            self._hang_up(None)
            raise

    def step(self, timeout: float | None) -> None:
        """Wait for work, at most timeout seconds, and do what there is."""
        pauses = [client.paused_until for client in self._clients.values() if client.paused_until]
        if pauses:
            left = max(min(pauses) - time.monotonic(), 0)
            timeout = left if timeout is None else min(left, timeout)
        for key, _ in self._selector.select(timeout):
            if callable(key.data):
                key.data()
            elif key.data is not None:
                self._receive(key.data)
        self._resume()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._calls:
            self._calls.popleft()()
        self._finish_turn()

    def _finish_turn(self) -> None:
        """What has changed is recorded before anybody is told."""
        self._follow()
        self._journal.record()
        for client in list(self._clients.values()):
            if client.connection.output:
                self._send(client)

    # Domains

    def _create(self, domid: int, name: str, pv: bool) -> None:
        domain.create(self.local, domid, name, pv)

    def _follow(self) -> None:
        """Have a socket for each domain that is introduced, and for no other."""
        introduced = self.daemon.domains.introduced
        if self._listeners.keys() == introduced:
            return
        for domid in introduced - self._listeners.keys():
            self._listen(domid)
        for domid in self._listeners.keys() - introduced:
            self._hang_up(domid)
            listener = self._listeners.pop(domid)
            self._selector.unregister(listener)
            listener.close()
            Path(self.path(domid)).unlink(missing_ok=True)

    def _listen(self, domid: int) -> None:
        """Bind under another name first: whoever finds the socket can connect to it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        new = self.path(domid) + ".new"
        Path(new).unlink(missing_ok=True)
        listener.bind(new)
        listener.listen(64)
        os.rename(new, self.path(domid))
        self._listeners[domid] = listener
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(domid))

    def _hang_up(self, domid: int | None) -> None:
        for client in list(self._clients.values()):
            if domid in (None, client.connection.domid):
                self._disconnect(client)

    # Clients

    def _accept(self, domid: int) -> None:
        try:
            sock, _ = self._listeners[domid].accept()
        except (BlockingIOError, ConnectionError, KeyError):
            return  # whoever it was has gone again
        sock.setblocking(False)
        client = Client(sock, Connection(domid))
        self._clients[sock.fileno()] = client
        self.daemon.connections.add(client.connection)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _disconnect(self, client: Client) -> None:
        if self._clients.pop(client.sock.fileno(), None) is None:
            return
        self.daemon.disconnect(client.connection)
        self._selector.unregister(client.sock)
        client.sock.close()

    def _receive(self, client: Client) -> None:
        if client.sock.fileno() < 0:
            return  # disconnected earlier in this turn
        try:
            data = client.sock.recv(CHUNK)
        except BlockingIOError:
            return  # it was writable, not readable
        except OSError:
            data = b""
        if not data:
            self._disconnect(client)
            return
        client.connection.feed(data)
        self._process(client)

    def _process(self, client: Client) -> None:
        """Answer the client's complete requests, unless a fault says otherwise."""
        connection, faults = client.connection, self.daemon.faults
        try:
            while not client.paused_until and (request := connection.next_request()):
                if faults.drop(connection.domid):
                    self._drop(client, request if faults.drop_done else None)
                    return
                if pause := faults.pause():
                    client.paused_until = time.monotonic() + pause
                    connection.put_back(request)
                elif code := faults.refusal(connection.domid):
                    refuse(connection, code, *request)
                else:
                    handle(self.daemon, connection, *request)
                    self._follow()
        except BadClient:
            self._send(client)
            self._disconnect(client)

    def _drop(self, client: Client, request: tuple[int, int, int, bytes] | None) -> None:
        """Disconnect a client instead of answering its request, which is carried out or not."""
        self._send(client)
        if request is not None:
            handle(self.daemon, client.connection, *request)
            self._follow()
        self._disconnect(client)

    def _resume(self) -> None:
        """Answer the requests whose delay is over."""
        for client in list(self._clients.values()):
            if client.paused_until and client.paused_until <= time.monotonic():
                client.paused_until = 0.0
                request = client.connection.next_request()
                if request:
                    handle(self.daemon, client.connection, *request)
                self._process(client)

    def _send(self, client: Client) -> None:
        """Send what the client will take now, and the rest when it can take more."""
        try:
            client.connection.sent(client.sock.send(client.connection.output))
        except BlockingIOError:
            pass
        except OSError:
            self._disconnect(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.connection.output else 0)
        if self._selector.get_key(client.sock).events != events:
            self._selector.modify(client.sock, events, client)

    def _close(self) -> None:
        self._hang_up(None)
        for domid, listener in self._listeners.items():
            listener.close()
            Path(self.path(domid)).unlink(missing_ok=True)
        self._listeners.clear()
        if self._wake >= 0:
            self._selector.close()
            self._journal.close()
            os.close(self._wake)
            self._wake = -1


def _settle(future: Future[T], fn: Callable[[], T]) -> None:
    """Run fn and hand its outcome over, whatever it is."""
    try:
        future.set_result(fn())
    except BaseException as error:
        future.set_exception(error)
