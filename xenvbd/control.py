"""The control socket: a line of JSON for a request, a line for its reply.

    {"id": 1, "verb": "attach", "params": {...}}  ->  {"id": 1, "result": {...}} or {"id": 1, "error": {...}}

Whoever may use it can make the daemon open any allowed target, so it is root's alone: mode 0600 in a 0700
directory, and the peer's credentials are looked at as well.  What a client can hold of us is bounded: one
request at a time, 64 KiB each, a number of clients, a time to be idle.
"""
from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from xenvbd.errors import ClaimError, ControlError, Error, PropertyError, from_json, to_json
from xenvbd.loop import Loop
from xenvbd.text import as_json
from xenvbd.wire import peer

MAX_REQUEST = 64 * 1024
MAX_REPLY = 16 * 1024 * 1024
MAX_CLIENTS = 32
IDLE_SECONDS = 60.0
RUNNING = "is `xenvbd serve` running?"
ROOT = "only root may use it: become root, or use sudo"
HINTS = {errno.ENOENT: RUNNING, errno.ECONNREFUSED: RUNNING, errno.EACCES: ROOT, errno.EPERM: ROOT}

log = logging.getLogger("xenvbd.control")

Result = dict[str, Any] | OSError
Reply = Callable[[Result], None]
Dispatch = Callable[[str, dict[str, Any], Reply], None]


class Server:
    """The daemon's end.  dispatch(verb, params, reply) is called for each request and calls reply(), at once
    or later and once; an OSError that it raises is the reply."""

    def __init__(self, loop: Loop, path: str, dispatch: Dispatch, *, idle: float = IDLE_SECONDS) -> None:
        self.loop, self.path, self.dispatch, self.idle = loop, path, dispatch, idle
        self.clients: set[_Connection] = set()
        self._socket = _listen(path)
        self._sweeping = False
        loop.accept(self._socket, self._accepted)

    def close(self) -> None:
        for client in list(self.clients):
            client.close()
        self.loop.forget(self._socket.fileno())
        self._socket.close()
        os.unlink(self.path)

    def _accepted(self, sock: socket.socket) -> None:
        if self._refused(sock):
            return
        try:
            self.clients.add(_Connection(self, sock))
        except OSError as exc:
            log.info("a client of the control socket cannot be served: %s", exc)
            sock.close()
            return
        if not self._sweeping:
            self._sweeping = True
            self._sweep()

    def _refused(self, sock: socket.socket) -> bool:
        """Whether it was sent away; it need not be there any more to be told why."""
        try:
            if (refusal := self._refusal(sock)) is None:
                return False
            sock.setblocking(False)
            sock.send(_line({"id": None, "error": to_json(refusal)}))
        except OSError as exc:
            log.info("a client of the control socket has gone: %s", exc)
        sock.close()
        return True

    def _refusal(self, sock: socket.socket) -> Error | None:
        pid, uid = peer(sock)
        if uid not in (0, os.geteuid()):
            return ControlError(errno.EPERM, f"user {uid} (process {pid}) may not use this socket, only root may",
                                path=self.path)
        if len(self.clients) >= MAX_CLIENTS:
            return ControlError(errno.EBUSY, f"{MAX_CLIENTS} clients are connected already", path=self.path)
        return None

    def _sweep(self) -> None:
        """Close the idle, once in a while, while there are any clients."""
        limit = time.monotonic() - self.idle
        for client in [c for c in self.clients if not c.busy and c.last < limit]:
            client.close()
        self._sweeping = bool(self.clients)
        if self._sweeping:
            self.loop.later(self.idle / 4, self._sweep)


class _Connection:
    """One client.  While its request is being worked on nothing more is read."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.server, self.sock = server, sock
        self.busy = False
        self.last = time.monotonic()
        self._in = bytearray()
        self._out = bytearray()
        server.loop.read(sock.fileno(), self._readable)

    def close(self) -> None:
        if self in self.server.clients:
            self.server.clients.discard(self)
            self.server.loop.forget(self.sock.fileno())
            self.sock.close()

    def _readable(self) -> None:
        try:
            data = self.sock.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._in += data
        self._take()

    def _take(self) -> None:
        """Start on the request that is complete, if one is."""
        end = self._in.find(b"\n")
        if end < 0 and len(self._in) <= MAX_REQUEST:
            return
        if end < 0 or end > MAX_REQUEST:
            self._send({"id": None, "error": to_json(_bad(f"a request of more than {MAX_REQUEST} bytes"))})
            self.close()
            return
        line = bytes(self._in[:end])
        del self._in[:end + 1]
        self.busy, self.last = True, time.monotonic()
        self.server.loop.read(self.sock.fileno(), None)
        self._handle(line)

    def _handle(self, line: bytes) -> None:
        number: Any = None

        def reply(result: Result) -> None:
            body = {"error": to_json(result)} if isinstance(result, OSError) else {"result": result}
            self._answer({"id": number, **body})

        try:
            number, verb, params = _request(line)
            self.server.dispatch(verb, params, reply)
        except OSError as exc:
            reply(exc)
        except Exception:
            reply(Error(errno.EIO, "the daemon failed on this request; its log says why"))
            raise

    def _answer(self, body: dict[str, Any]) -> None:
        if self not in self.server.clients:
            return
        self.busy, self.last = False, time.monotonic()
        try:
            self.server.loop.read(self.sock.fileno(), self._readable)
        except OSError:
            self.close()            # it cannot be heard any more
            return
        self._send(body)
        # Through the loop, so that a client with many requests in its buffer does not deepen the stack.
        self.server.loop.soon(self._next)

    def _next(self) -> None:
        if self in self.server.clients and not self.busy and self._in:
            self._take()

    def _send(self, body: dict[str, Any]) -> None:
        self._out += _line(body)
        self._flush()

    def _flush(self) -> None:
        try:
            del self._out[:self.sock.send(self._out, socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if len(self._out) > MAX_REPLY:
            self.close()
        else:
            self.server.loop.write(self.sock.fileno(), self._flush if self._out else None)


class Client:
    """The command's end: one connection a call, blocking, for at most timeout seconds."""

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self.path, self.timeout = path, timeout

    def call(self, verb: str, /, **params: Any) -> dict[str, Any]:
        """The verb's result.  Raises what the daemon raised, or ControlError if it cannot be reached; errno
        ETIMEDOUT if it does not answer in time."""
        # Not _line(): bytes of a name that are no UTF-8 go as the surrogates that stand for them.
        line = json.dumps({"id": 1, "verb": verb, "params": params}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(self.timeout)
                sock.connect(self.path)
                with contextlib.suppress(BrokenPipeError):      # it refuses before it reads, and says why
                    sock.sendall(line)
                reply = self._read(sock)
        except TimeoutError:
            raise ControlError(errno.ETIMEDOUT, f"the daemon did not answer {verb} in {self.timeout:g} s",
                               path=self.path) from None
        except OSError as exc:
            raise self._unreachable(exc) from None
        if "error" in reply:
            raise from_json(reply["error"])
        return dict(reply["result"])

    def _read(self, sock: socket.socket) -> dict[str, Any]:
        deadline = time.monotonic() + self.timeout
        data = bytearray()
        while not data.endswith(b"\n"):
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            part = sock.recv(1 << 16)
            if not part or len(data) > MAX_REPLY:
                raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
            data += part
        return dict(json.loads(data))

    def _unreachable(self, exc: OSError) -> ControlError:
        if isinstance(exc, ControlError):
            return exc
        hint = HINTS.get(exc.errno or 0, "see its log")
        return ControlError(exc.errno or errno.EIO, f"the daemon cannot be reached ({exc.strerror}); {hint}",
                            path=self.path)


def _listen(path: str) -> socket.socket:
    """The listening socket.  The directory is private, so nobody comes in between bind and chmod."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path):
            _refuse_if_served(path)
            os.unlink(path)
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(MAX_CLIENTS)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _refuse_if_served(path: str) -> None:
    """ClaimError if a daemon listens there; a socket that a dead one left is refused by the kernel."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            pass                # it has many clients
        except OSError:
            return
    raise ClaimError(errno.EBUSY, "another xenvbd listens there: stop it, or name another socket in the configuration",
                     path=path)


def _line(body: dict[str, Any]) -> bytes:
    """A reply, or any other line for a parser that takes no lone surrogates."""
    return as_json(body, separators=(",", ":")).encode() + b"\n"


def _bad(message: str) -> PropertyError:
    return PropertyError(errno.EINVAL, message)


def _request(line: bytes) -> tuple[Any, str, dict[str, Any]]:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _bad(f"a request that is not JSON: {exc}") from None
    if not isinstance(body, dict):
        raise _bad("a request that is not an object")
    number, verb, params = body.get("id"), body.get("verb"), body.get("params", {})
    if not isinstance(verb, str) or not isinstance(params, dict) or not isinstance(number, int | str | None):
        raise _bad("a request is {\"id\": NUMBER, \"verb\": NAME, \"params\": {...}}")
    return number, verb, params
