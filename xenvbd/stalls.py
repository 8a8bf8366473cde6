"""Requests that have had no answer for too long: a storage that hangs, or a worker that was stopped.

Nobody who might hang is asked: the manager looks into the journals, where each request stands until it is answered.
What hangs is told of and never answered, for a write that was given up could still land.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from xenvbd.loop import Loop, Timer

LOOKS = 8                       # in the time after which there is an alarm
LEAST_SECONDS = 0.02            # between two of them

Request = tuple[int, int]       # a queue, and the request's index in its ring


class Stalls:
    """Of one disk, between start() and stop().  alarm: seconds, or None for nothing to be looked at; it may be changed
    while stopped."""

    def __init__(self, loop: Loop, alarm: float | None, unanswered: Callable[[], Iterable[Request]],
                 tell: Callable[[str], None]) -> None:
        """unanswered: the requests that the disk has now; tell: called with a sentence when they have taken too long,
        each time that has doubled, and when it is over."""
        self.requests, self.seconds = 0, 0.0        # that have taken too long, and how long the oldest has
        self._loop, self.alarm, self._unanswered, self._tell = loop, alarm, unanswered, tell
        self._since: dict[Request, float] = {}
        self._told = 0.0
        self._timer: Timer | None = None

    def start(self) -> None:
        """The disk is being served."""
        if self.alarm is not None and self._timer is None:
            self._look()

    def stop(self) -> None:
        """It is not, or not by the same worker."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._since, self.requests, self.seconds, self._told = None, {}, 0, 0.0, 0.0

    def _look(self) -> None:
        assert self.alarm is not None
        now, between = time.monotonic(), max(LEAST_SECONDS, self.alarm / LOOKS)
        # All disks at the same moments: the manager wakes once for them.
        self._timer = self._loop.later(between - now % between, self._look)
        self._since = {request: self._since.get(request, now) for request in self._unanswered()}
        late = [since for since in self._since.values() if now - since >= self.alarm]
        before, self.requests, self.seconds = self.seconds, len(late), now - min(late, default=now)
        if late and self.seconds >= 2 * self._told:
            self._told = self.seconds
            self._tell(f"its storage hangs: no answer for {self.seconds:.3g} s (requests: {self.requests})")
        elif not late and before:
            self._told = 0.0
            self._tell(f"all is answered again that had none for {before:.3g} s")
