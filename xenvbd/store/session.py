"""The wire below a Store: one connection to xenstored, requests with their replies, queued watch events.

pyxs gives the connections and the packets; its Client and Router are not used, because
a daemon must survive what they do not: a store that goes away mid-request, a descriptor above 1024, a
request id past 2^32, operations younger than pyxs (xs_wire.h)."""
from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pyxs._internal import Op, Packet
from pyxs.connection import UnixSocketConnection, XenBusConnection
from pyxs.exceptions import PyXSError

from xenvbd.errors import StoreError

PAYLOAD_MAX = 4096          # XENSTORE_PAYLOAD_MAX of xs_wire.h: xenstored drops a client that sends more
HEADER: struct.Struct = Packet._struct
CHUNK, CHUNKS = 65536, 16    # bytes in one read, reads in one receive(): a flood must not hold us for ever
ERRNOS = {name.encode(): code for code, name in errno.errorcode.items()}
LOST = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ENODEV,
                  errno.EBADF})


def connect(path: str, timeout: float) -> Any:
    """A pyxs connection to path: XenBus for a character device, else a UNIX socket.  Raises StoreError."""
    try:
        if stat.S_ISCHR(os.stat(path).st_mode):
            connection = XenBusConnection(path)
            connection.connect()
        else:
            connection = UnixSocketConnection(path)
            connection.transport = _connected_socket(path, timeout)
    except (OSError, PyXSError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        code = getattr(cause, "errno", None) or errno.EINVAL
        raise StoreError(code, f"connect: {os.strerror(code)}", path=path) from None
    os.set_blocking(connection.fileno(), False)
    return connection


def _connected_socket(path: str, timeout: float) -> socket.socket:
    """A connected socket, as a pyxs transport.

    pyxs's own waits for ever when a stopped store's backlog is full, and its close leaks the descriptor when
    the store has gone."""
    transport = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        seconds = int(timeout)
        bound = struct.pack("ll", seconds, max(int((timeout - seconds) * 1e6), 1))
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
        transport.connect(path)
    except BlockingIOError:
        transport.close()
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    except BaseException:
        transport.close()
        raise
    return transport


class Session:
    """One connection at a time to the xenstored at path; timeout bounds every request, in seconds."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self.on_lost: Callable[[StoreError], None] | None = None
        #: Watch events not delivered yet, (token, path), oldest first.  Each once: what a guest can make
        #: us keep is bounded by the nodes it may own, however often it writes them (XSA-349).
        self.events: dict[tuple[bytes, bytes], None] = {}
        #: Grows with each connection: what belongs to an earlier one is void.
        self.epoch = 0
        self._connection: Any = None
        self._next_request = 0
        self._replies: deque[Any] = deque()
        self._input = bytearray()
        # Readable if the store has sent something, or if events are waiting.
        self._ready = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ready.register(self._wake, select.EPOLLIN)

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as has been noticed."""
        return self._connection is not None

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to receive or deliver; it never changes."""
        return self._ready.fileno()

    def open(self) -> None:
        """Connect, in place of the connection there may be."""
        self.drop()
        connection = connect(self.path, self.timeout)
        # The kernel's buffer for a message holds the header too (xenbus_dev_frontend.c).
        device = isinstance(connection, XenBusConnection)
        self._limit = PAYLOAD_MAX - HEADER.size if device else PAYLOAD_MAX
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)
        self._ready.register(connection.fileno(), select.EPOLLIN)
        self._connection = connection
        self.epoch += 1

    def drop(self) -> None:
        """Forget the connection and everything that came over it."""
        connection, self._connection = self._connection, None
        self.events.clear()
        self._replies.clear()
        self._input.clear()
        if connection is not None:
            self._ready.unregister(connection.fileno())
            connection.close()

    def close(self) -> None:
        """Drop the connection and the descriptors of the session itself."""
        self.drop()
        if self._wake >= 0:
            self._ready.close()
            os.close(self._wake)
            self._wake = -1

    def request(self, op: int, payload: bytes, tx: int = 0, path: str | None = None) -> bytes:
        """Send one request and wait for its reply's payload.

        Raises StoreError: xenstored's errno with the request's path; E2BIG before anything is sent;
        ECONNRESET, ETIMEDOUT when the connection is lost thereby, ENOTCONN when it was lost before."""
        if self._connection is None:
            raise StoreError(errno.ENOTCONN, "no connection to xenstored", path=path)
        if len(payload) > self._limit:
            message = f"a request of {len(payload)} bytes, {self._limit} at most"
            raise StoreError(errno.E2BIG, message, path=path)
        request = self._next_request
        self._next_request = (request + 1) & 0xFFFFFFFF
        deadline = time.monotonic() + self.timeout
        self._send(HEADER.pack(op, request, tx, len(payload)) + payload, deadline, path)
        reply = self._reply(request, deadline)
        if reply.op == Op.ERROR:
            code = ERRNOS.get(reply.payload.rstrip(b"\0"), errno.EIO)
            raise StoreError(code, os.strerror(code), path=path)
        return bytes(reply.payload)

    def receive(self) -> None:
        """Take in what the store has sent, without waiting.  Raises StoreError if the connection is lost."""
        try:
            for _ in range(CHUNKS):
                chunk = os.read(self._connection.fileno(), CHUNK)
                self._input += chunk
                if len(chunk) < CHUNK:
                    break
        except BlockingIOError:
            chunk = b"-"
        except OSError as error:
            raise self._lost(error.errno or errno.EIO, "read") from None
        self._parse()
        if not chunk:
            raise self._lost(errno.ECONNRESET, "read")

    def signal(self) -> None:
        """Make fileno() readable if events are waiting, and not otherwise on their account."""
        if self._wake >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            if self.events:
                os.eventfd_write(self._wake, 1)

    def _lost(self, code: int, what: str) -> StoreError:
        """Drop the connection, tell on_lost, and return the error to raise."""
        error = StoreError(code, f"{what}: {os.strerror(code)}", path=self.path)
        self.drop()
        if self.on_lost is not None:
            self.on_lost(error)
        return error

    def _send(self, message: bytes, deadline: float, path: str | None) -> None:
        """Write a whole message, header and payload at once, and never nothing: XenBus minds."""
        sent = 0
        while sent < len(message):
            try:
                sent += os.write(self._connection.fileno(), message[sent:] if sent else message)
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline, "write")
            except OSError as error:
                code = error.errno or errno.EIO
                if sent or code in LOST:
                    raise self._lost(code, "write") from None
                # The kernel's XenBus refuses some requests itself; the connection is as it was.
                raise StoreError(code, os.strerror(code), path=path) from None

    def _reply(self, request: int, deadline: float) -> Any:
        """The reply to a request.  Replies to requests that an exception gave up on are thrown away."""
        while True:
            while self._replies:
                packet = self._replies.popleft()
                if packet.rq_id == request:
                    return packet
            self._wait(select.POLLIN, deadline, "read")
            self.receive()

    def _wait(self, event: int, deadline: float, what: str) -> None:
        """Wait until the connection can be read or written; give up a store that takes too long."""
        self._poll.modify(self._connection.fileno(), event)
        try:
            ready = self._poll.poll(max(deadline - time.monotonic(), 0) * 1000)
        except OSError as error:
            raise self._lost(error.errno or errno.EIO, what) from None
        if not ready:
            raise self._lost(errno.ETIMEDOUT, what)

    def _parse(self) -> None:
        """Sort the complete packets of the input into replies and events."""
        start, waiting = 0, bool(self.events)
        while len(self._input) - start >= HEADER.size:
            op, request, tx, size = HEADER.unpack_from(self._input, start)
            if size > PAYLOAD_MAX:
                raise self._lost(errno.EPROTO, "read")
            if len(self._input) - start - HEADER.size < size:
                break
            start += HEADER.size + size
            self._sort(op, request, tx, bytes(self._input[start - size:start]))
        del self._input[:start]
        if self.events and not waiting:
            os.eventfd_write(self._wake, 1)

    def _sort(self, op: int, request: int, tx: int, payload: bytes) -> None:
        if op == Op.WATCH_EVENT:
            path, _, token = payload.partition(b"\0")
            self.events[token.rstrip(b"\0"), path] = None
        else:
            # _make, because Packet() refuses operations younger than pyxs.
            self._replies.append(Packet._make((op, request, tx, len(payload), payload)))
