"""Dom0's view of a simulated store in the same process: the verbs of Store that making a domain needs."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyxs._internal import Op

from xenvbd.store_sim.connection import HEADER, Connection
from xenvbd.store_sim.daemon import Daemon
from xenvbd.store_sim.node import Refusal
from xenvbd.store_sim.requests import NAMES, handle


class Local:
    """Requests to a daemon without a socket.  Raises Refusal."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._connection = Connection(0)

    def read(self, path: str) -> bytes:
        """As Store.read."""
        return self._request(Op.READ, path)

    def exists(self, path: str) -> bool:
        """As Store.exists."""
        return path in self._daemon.tree.nodes

    def write(self, path: str, value: bytes | str) -> None:
        """As Store.write."""
        data = value.encode() if isinstance(value, str) else value
        self._request(Op.WRITE, path, raw=data)

    def rm(self, path: str) -> None:
        """As Store.rm."""
        if self.exists(path):
            self._request(Op.RM, path)

    def set_perms(self, path: str, perms: Sequence[str]) -> None:
        """As Store.set_perms."""
        self._request(Op.SET_PERMS, path, *perms)

    def introduce(self, domid: int, gfn: int = 0, port: int = 1) -> None:
        """As Store.introduce."""
        self._request(Op.INTRODUCE, domid, gfn, port)

    def release(self, domid: int) -> None:
        """As Store.release."""
        self._request(Op.RELEASE, domid)

    def is_introduced(self, domid: int) -> bool:
        """As Store.is_introduced."""
        return domid in self._daemon.domains.introduced

    def _request(self, op: int, *strings: Any, raw: bytes = b"") -> bytes:
        payload = b"".join(b"%s\0" % str(string).encode() for string in strings) + raw
        handle(self._daemon, self._connection, op, 0, 0, payload)
        reply = bytes(self._connection.output)
        self._connection.sent(len(reply))
        answer = reply[HEADER.size:]
        if HEADER.unpack_from(reply)[0] == Op.ERROR:
            raise Refusal(next(code for code, name in NAMES.items() if name == answer))
        return answer
