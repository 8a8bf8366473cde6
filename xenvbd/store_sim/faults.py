"""Faults that tests order from the simulated store, in its process or over dom0's connection (CONTROL)."""
from __future__ import annotations

import errno

from xenvbd.store_sim.node import Refusal

REFUSALS = {name: getattr(errno, name) for name in ("EACCES", "EAGAIN", "EBUSY", "EINVAL", "EIO", "ENOENT", "ENOMEM",
                                                     "ENOSPC", "E2BIG", "EPERM")}


class Faults:
    """Each fault is a count that runs down; none by default."""

    def __init__(self) -> None:
        self.conflicts = 0              # commits to be answered EAGAIN
        self.drop_after: int | None = None      # requests still to be answered before a client is dropped
        self.drop_domid: int | None = None      # only requests of this domain count for drop_after
        self.drop_done = False          # the request that is not answered is carried out all the same
        self.delay = 0.0                # seconds before an answer
        self.delays = 0                 # requests still to be delayed so
        self.refuse_after: int | None = None    # requests still to be carried out before one is refused
        self.refuse_domid: int | None = None    # only requests of this domain count for refuse_after
        self.refuse_errno = errno.EIO   # with this

    def set(self, words: list[str]) -> None:
        """Obey CONTROL "fault": eagain N | drop N [DOMID] | delay SECONDS N | refuse N ERROR [DOMID].  Raises Refusal
        EINVAL."""
        try:
            match words:
                case ["eagain", times]:
                    self.conflicts = int(times)
                case ["drop", after]:
                    self.drop_after, self.drop_domid = int(after), None
                case ["drop", after, domid]:
                    self.drop_after, self.drop_domid = int(after), int(domid)
                case ["delay", seconds, times]:
                    self.delay, self.delays = float(seconds), int(times)
                case ["refuse", after, name, *domid] if len(domid) < 2 and REFUSALS.get(name):
                    self.refuse_errno, self.refuse_domid = REFUSALS[name], int(domid[0]) if domid else None
                    self.refuse_after = int(after)
                case _:
                    raise ValueError
        except ValueError:
            raise Refusal(errno.EINVAL) from None

    def conflict(self) -> bool:
        """Whether this commit is to be refused."""
        if not self.conflicts:
            return False
        self.conflicts -= 1
        return True

    def drop(self, domid: int) -> bool:
        """Whether the client of this request is to be dropped instead of answered."""
        if self.drop_after is None or self.drop_domid not in (None, domid):
            return False
        self.drop_after -= 1
        if self.drop_after >= 0:
            return False
        self.drop_after = None
        return True

    def refusal(self, domid: int) -> int:
        """With which error this request is to be refused, and not carried out; 0: with none."""
        if self.refuse_after is None or self.refuse_domid not in (None, domid):
            return 0
        self.refuse_after -= 1
        if self.refuse_after >= 0:
            return 0
        self.refuse_after = None
        return self.refuse_errno

    def pause(self) -> float:
        """Seconds by which this request is to be delayed."""
        if not self.delays:
            return 0.0
        self.delays -= 1
        return self.delay
