"""What a device's two ends went through, and when; told as trace events as it happens."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from xenvbd.trace import event
from xenvbd.xenbus import View, XenbusState

STEPS = 32          # states that are kept: a frontend that comes and goes without end costs no memory


@dataclass(frozen=True)
class Step:
    """An end has got into a state, so many seconds after the device began."""

    end: str                        # "backend" or "frontend"
    state: str
    seconds: float


def label(state: XenbusState | None) -> str:
    """A state's name, "none" for an area that is gone."""
    return "none" if state is None else state.label


class History:
    """Of one device, from the moment that this manager knows it."""

    def __init__(self, disk: Callable[[], str]) -> None:
        """disk: its name, now."""
        self._disk, self._begin = disk, time.monotonic()
        self.steps: deque[Step] = deque(maxlen=STEPS)

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begin

    def start(self, view: View) -> None:
        """The states that it began with, or was found in."""
        self.steps.clear()
        self._add("backend", view.backend)
        self._add("frontend", view.frontend)

    def saw(self, before: View, now: View) -> None:
        """What has changed."""
        if before.backend is not now.backend:
            event("xen_device_backend_state", disk=self._disk(), state=label(now.backend))
            self._add("backend", now.backend)
        if before.frontend is not now.frontend:
            event("xen_device_frontend_state", disk=self._disk(), state=label(now.frontend))
            self._add("frontend", now.frontend)
        if before.online is not now.online:
            event("xen_device_backend_online", disk=self._disk(), online=int(now.online))

    def _add(self, end: str, state: XenbusState | None) -> None:
        self.steps.append(Step(end, label(state), self.age))
