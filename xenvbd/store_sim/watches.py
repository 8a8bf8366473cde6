"""The simulated store's watches, and which of them a changed path concerns."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from xenvbd.store_sim.node import parent_of

if TYPE_CHECKING:
    from xenvbd.store_sim.connection import Connection


@dataclass(slots=True, eq=False)
class Watch:
    """One watch: who set it, on which absolute path, with which token; `base` is cut off relative paths."""

    connection: Connection
    path: str
    token: str
    base: str
    order: int = 0

    def event_path(self, path: str) -> str:
        """The path as the watcher is told it."""
        return path[len(self.base):].removeprefix("/") if self.base else path


class Watches:
    """All watches by path, so that a change costs as much as its path is deep."""

    def __init__(self) -> None:
        self.per_domain: Counter[int] = Counter()
        self._by_path: dict[str, list[Watch]] = {}
        self._order = count()

    def of(self, connection: Connection) -> list[Watch]:
        """One connection's watches."""
        return [watch for watches in self._by_path.values() for watch in watches
                if watch.connection is connection]

    def find(self, connection: Connection, path: str, token: str) -> Watch | None:
        """The connection's watch with this path and token."""
        return next((watch for watch in self._by_path.get(path, ())
                     if watch.connection is connection and watch.token == token), None)

    def add(self, watch: Watch) -> None:
        """Set a watch."""
        watch.order = next(self._order)
        self._by_path.setdefault(watch.path, []).append(watch)
        self.per_domain[watch.connection.domid] += 1

    def remove(self, watch: Watch) -> None:
        """Unset a watch."""
        watches = self._by_path[watch.path]
        watches.remove(watch)
        self.per_domain[watch.connection.domid] -= 1
        if not watches:
            del self._by_path[watch.path]

    def concerned(self, path: str, exact: bool) -> list[Watch]:
        """The watches on path and, unless exact, on what is above it; oldest connection first."""
        paths = [path] if exact else list(_upwards(path))
        found = [watch for each in paths for watch in self._by_path.get(each, ())]
        return sorted(found, key=lambda watch: (watch.connection.order, watch.order))


def _upwards(path: str) -> Iterator[str]:
    yield path
    while path != "/":
        path = parent_of(path)
        yield path
