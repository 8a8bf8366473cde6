"""One request of the xenstore protocol, as its handler sees it."""
from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from xenvbd.store_sim.connection import Connection
from xenvbd.store_sim.daemon import Daemon
from xenvbd.store_sim.node import Refusal
from xenvbd.store_sim.tree import View


def number(text: str) -> int:
    """A number as C's atoi() sees it: leading digits, else 0."""
    digits = text[:len(text) - len(text.lstrip("0123456789"))]
    return int(digits or "0")


@dataclass(slots=True)
class Request:
    """A request as its handler gets it; view is the tree, or the transaction that was named."""

    daemon: Daemon
    connection: Connection
    payload: bytes
    tx: int
    view: View
    then: Callable[[], None] | None = None     # what follows the answer

    def strings(self, least: int) -> list[str]:
        """The payload's NUL-terminated strings.  Raises EINVAL if there are fewer than least."""
        strings = self.payload.decode("latin-1").split("\0")[:-1]
        if len(strings) < least:
            raise Refusal(errno.EINVAL)
        return strings

    def only(self) -> str:
        """The payload's one string.  Raises EINVAL if it is not exactly one."""
        strings = self.strings(1)
        if len(strings) != 1 or not self.payload.endswith(b"\0"):
            raise Refusal(errno.EINVAL)
        return strings[0]

    def path(self) -> str:
        """The payload's only string as an absolute path."""
        return self.connection.absolute(self.only())

    def domid(self) -> int:
        """The payload's only string as the number of a domain other than dom0 that is served."""
        domid = number(self.only())
        if domid == 0:
            raise Refusal(errno.EINVAL)
        return self.served(domid)

    def served(self, domid: int) -> int:
        """domid, if it is introduced, else ENOENT."""
        if domid not in self.daemon.domains.introduced:
            raise Refusal(errno.ENOENT)
        return domid
