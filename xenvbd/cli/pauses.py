"""What a guest waits when its worker is killed: `xenvbd bench --kills N`."""
from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Sequence

from xenvbd.errors import Error

AT_ONCE = 4                         # a worker that dies five times in a minute is started again later, on purpose
APART_SECONDS = 2.0                 # the next spare is there
LOOK_SECONDS = 0.001


class Pauses:
    """On one machine.  seconds: of each kill, until the next request was answered."""

    def __init__(self, kills: int, ops: Callable[[], int], seconds: list[float]) -> None:
        """kills: how many there are to be, at most; ops: requests that were answered so far; seconds: to add to."""
        self.seconds = seconds
        self._all, self._ops = len(seconds) + min(kills, AT_ONCE), ops
        self._next = float("inf")

    @staticmethod
    def lasts(kills: int) -> float:
        """Seconds that a machine takes for its part of so many."""
        return (min(kills, AT_ONCE) + 1) * APART_SECONDS

    def begin(self) -> None:
        """The guest is being served."""
        self._next = time.monotonic() + APART_SECONDS

    @property
    def due(self) -> bool:
        """Whether it is time for the next kill."""
        return len(self.seconds) < self._all and time.monotonic() >= self._next

    def kill(self, pid: int, patience: float, ended: Callable[[], bool]) -> None:
        """Kill the worker, and wait; Error if the guest is not served again within so many seconds.  ended: whether the
        load is over, and so nothing more will be answered."""
        self._next = time.monotonic() + APART_SECONDS
        process = os.pidfd_open(pid)
        started = time.monotonic()
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], patience)
        finally:
            os.close(process)
        before = self._ops()
        while self._ops() == before:
            if ended():
                return
            if time.monotonic() - started > patience:
                raise Error(errno.ETIMEDOUT, f"the guest is not served again {patience:g} s after its worker died")
            time.sleep(LOOK_SECONDS)
        self.seconds.append(time.monotonic() - started)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds, with the greatest."""
    ordered = sorted(seconds)
    ranks = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": len(ordered) - 1}
    return {name: round(ordered[rank] * 1e3, 1) for name, rank in ranks.items()}
