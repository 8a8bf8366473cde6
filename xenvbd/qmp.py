"""The little of QMP, the QEMU monitor protocol, that libxl says to a device model: a line of JSON each way."""
from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from xenvbd.loop import Loop

MAX_LINE = 64 * 1024
# libxl wants to know how old the QEMU is that it talks to; this one knows all commands that 4.14 to 4.22 send.
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "xenvbd"}, "capabilities": []}}

log = logging.getLogger("xenvbd.dm")
Commands = Mapping[str, Callable[[dict[str, Any]], Any]]


class Monitor:
    """A listening socket, and the clients that it has.  commands: what each returns, by name and arguments."""

    def __init__(self, loop: Loop, sock: socket.socket, commands: Commands) -> None:
        self.loop, self.commands, self._socket = loop, commands, sock
        self._clients: set[_Client] = set()
        sock.listen()
        sock.setblocking(False)
        loop.read(sock.fileno(), self._accept)

    def close(self) -> None:
        for client in list(self._clients):
            client.close()
        self.loop.forget(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._socket.accept()
            self._clients.add(_Client(self.loop, sock, self.commands, self._clients.discard))


class _Client:
    def __init__(self, loop: Loop, sock: socket.socket, commands: Commands, gone: Callable[[_Client], None]) -> None:
        self.loop, self.commands, self._socket, self._gone = loop, commands, sock, gone
        self._input = b""
        sock.settimeout(1.0)            # an answer is short, and fits into the socket's buffer
        loop.read(sock.fileno(), self._readable)
        self._send(GREETING)

    def close(self) -> None:
        self.loop.forget(self._socket.fileno())
        self._socket.close()
        self._gone(self)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(MAX_LINE)
        except OSError:
            data = b""
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            if line.strip() and self._socket.fileno() >= 0:
                self._send(self._answer(line))
        if (not data or len(self._input) > MAX_LINE) and self._socket.fileno() >= 0:
            self.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            name, arguments = str(request["execute"]), dict(request.get("arguments") or {})
        except (ValueError, KeyError, TypeError):
            return _error("GenericError", "expected a JSON object with a member 'execute'")
        number = {"id": request["id"]} if "id" in request else {}
        if name not in self.commands:
            return _error("CommandNotFound", f"xenvbd is no QEMU: it has no command {name}") | number
        return {"return": self.commands[name](arguments)} | number

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\r\n")
        except OSError as exc:
            log.info("a QMP client has gone: %s", exc)
            self.close()


def _error(kind: str, text: str) -> dict[str, Any]:
    return {"error": {"class": kind, "desc": text}}


def listen(path: str) -> socket.socket:
    """A socket at this path, root's alone; one that a dead process left is replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    os.chmod(path, 0o600)
    return sock
