"""What the workers that an earlier manager left are serving, as they say themselves."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from xenvbd.loop import Loop
from xenvbd.runtime import Runtime
from xenvbd.workers import Worker

LIST_SECONDS = 5.0                  # for a worker to answer


class Inventory:
    """Ask all workers which disks they serve, and tell their keys and the domains whose workers said nothing."""

    def __init__(self, workers: list[Worker], done: Callable[[set[str], set[int]], None], loop: Loop) -> None:
        self._waiting = {worker.domid for worker in workers}
        self._serving: set[str] = set()
        self._done: Callable[[set[str], set[int]], None] | None = done
        for worker in workers:
            worker.call("list", functools.partial(self._listed, worker))
        loop.later(LIST_SECONDS if workers else 0.0, self._finish)

    def _listed(self, worker: Worker, result: dict[str, Any] | OSError) -> None:
        self._waiting.discard(worker.domid)
        if not isinstance(result, OSError):
            disks = result.get("disks")             # of its own guest: it may say what it likes
            if isinstance(disks, dict):
                self._serving.update(key for key in disks if Runtime.domid(key) == worker.domid)
            worker.told = _planes(result)
            worker.version = str(result.get("version", ""))
        if not self._waiting:
            self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self._serving, self._waiting)


def _planes(listed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a worker says of each plane, by disk; nothing, if it is one of xenvbd 0.1."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("engine", "persistent"):
        values = listed.get(name)
        for key, value in values.items() if isinstance(values, dict) else ():
            found.setdefault(key, {})[name] = value
    return found
