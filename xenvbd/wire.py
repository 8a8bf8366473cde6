"""Messages between manager and worker: one JSON object and some descriptors each, over SOCK_SEQPACKET.

Neither end ever blocks on the other: the socket is non-blocking and what it does not take at once waits in a
bounded queue.  Descriptors have one owner at any time (a duplicate of an image's descriptor would keep its
lock alive): send() takes them over and closes them whatever happens, receive() hands them to the Message,
which closes those nobody took.
"""
from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

PROTOCOL = 4                        # of what a worker is asked to connect; all other messages are as they always were
MAX_MESSAGE = 64 * 1024             # bytes of JSON
MAX_FDS = 64                        # an image, and a journal, counters and an event-channel handle for each queue
MAX_QUEUE = 256                     # messages waiting for a slow peer

_FD_BYTES = array.array("i").itemsize


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


def peer(sock: socket.socket) -> tuple[int, int]:
    """Process id and user id of whoever is at the other end of a UNIX socket."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


@dataclass
class Message:
    """What came in: the object, and the descriptors that are still to be taken."""

    body: dict[str, Any]
    fds: list[int] = field(default_factory=list)

    def take_fds(self) -> list[int]:
        """The descriptors; they are the caller's from now on."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        close_all(self.take_fds())


class Wire:
    """One end of the connection.  on_pending is called whenever `pending` changes between zero and not zero,
    so that the owner can ask its loop for writability and call flush()."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._waiting = False
        self.on_pending: Callable[[bool], None] = lambda waiting: None

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def pending(self) -> int:
        """Messages that wait for the peer."""
        return len(self._queue)

    def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send, or queue.  fds are closed here in every case.

        OSError: EMSGSIZE (too long, or too many descriptors), ENOBUFS (the peer does not read), or the
        socket's."""
        owned = list(fds)
        data = json.dumps(body, separators=(",", ":")).encode()
        try:
            if len(data) > MAX_MESSAGE or len(owned) > MAX_FDS:
                raise OSError(errno.EMSGSIZE, f"a message of {len(data)} bytes and {len(owned)} descriptors")
            if len(self._queue) >= MAX_QUEUE:
                raise OSError(errno.ENOBUFS, "the peer does not read its messages")
        except OSError:
            close_all(owned)
            raise
        self._queue.append((data, owned))
        if len(self._queue) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the peer takes it.  OSError: the socket's; the message is dropped."""
        while self._queue and self._sent(*self._queue[0]):
            close_all(self._queue.popleft()[1])
        if self._waiting != bool(self._queue):
            self._waiting = bool(self._queue)
            self.on_pending(self._waiting)

    def receive(self) -> Message | None:
        """The next message; None if there is none now.

        EOFError: the peer is gone.  OSError EPROTO: not a message of ours; its descriptors are closed."""
        room = socket.CMSG_SPACE(MAX_FDS * _FD_BYTES)
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_MESSAGE + 1, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionResetError:        # it died with messages of ours unread
            raise EOFError("the peer closed the connection") from None
        fds = _descriptors(ancillary)
        if not data and not fds:
            raise EOFError("the peer closed the connection")
        try:
            return Message(_parse(data, flags), fds)
        except OSError:
            close_all(fds)
            raise

    def close(self) -> None:
        """Close the socket and every descriptor that still waits."""
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._sock.close()

    def _sent(self, data: bytes, fds: list[int]) -> bool:
        try:
            if fds:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                self._sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            else:
                os.write(self._sock.fileno(), data)     # a worker may not sendmsg()
        except BlockingIOError:
            return False
        except OSError:
            close_all(self._queue.popleft()[1])
            raise
        return True


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return list(fds)


def _parse(data: bytes, flags: int) -> dict[str, Any]:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) > MAX_MESSAGE:
        raise OSError(errno.EPROTO, "a message that is too long")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise OSError(errno.EPROTO, f"a message that is not JSON: {exc}") from None
    if not isinstance(body, dict):
        raise OSError(errno.EPROTO, "a message that is not an object")
    return body
