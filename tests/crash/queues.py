"""A guest with several rings, as a Workload knows a guest with one."""
from __future__ import annotations

import random
import select

from tests.support.guest import Agreement, Guest


class Queues:
    """Guests of one domain whose requests go to any of their rings; each response is still checked by its own."""

    def __init__(self, guests: list[Guest], seed: int = 1) -> None:
        self.guests, self.random = guests, random.Random(seed)
        first = guests[0]
        for guest in guests:
            guest.answered, guest._ids = first.answered, first._ids
        self.domid, self.abi, self.persistent, self.answered = first.domid, first.abi, first.persistent, first.answered
        self.pages, self.request, self.indirect = first.pages, first.request, first.indirect
        self.ring = self.evtchn = self              # what a Workload asks of them is below
        self._poll = select.epoll()
        for guest in guests:
            self._poll.register(guest.evtchn.fileno(), select.EPOLLIN)

    @property
    def agreement(self) -> Agreement:
        rings = tuple(guest.agreement.queues[0] for guest in self.guests)
        return Agreement(self.domid, 51712, self.abi, rings, persistent=self.persistent)

    @property
    def outstanding(self) -> dict[int, int]:
        return {number: operation for guest in self.guests for number, operation in guest.outstanding.items()}

    def submit(self, *requests) -> None:
        for request in requests:
            self.random.choice(self.guests).put(request)
        for guest in self.guests:
            guest.push()

    def take(self) -> None:
        for guest in self.guests:
            guest.take()

    def final_check(self) -> bool:
        return sum(guest.ring.final_check() for guest in self.guests) > 0      # of all: it asks each for an event

    def fileno(self) -> int:
        return self._poll.fileno()

    def pending(self):
        """A port with an event, and whose it is; None if there is none."""
        found = ((guest, guest.evtchn.pending()) for guest in self.guests)
        return next((each for each in found if each[1] is not None), None)

    def unmask(self, pending) -> None:
        guest, port = pending
        guest.evtchn.unmask(port)

    def close(self) -> None:
        self._poll.close()
        for guest in self.guests:
            guest.close()
