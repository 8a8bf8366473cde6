"""The XenBus states, and how a node says them."""
from __future__ import annotations

from enum import IntEnum


class XenbusState(IntEnum):
    """The states of xen/io/xenbus.h.  A node that is not there is None, not UNKNOWN."""

    UNKNOWN = 0
    INITIALISING = 1
    INITWAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8

    @property
    def label(self) -> str:
        """As the field writes it: InitWait, Connected."""
        return "InitWait" if self is XenbusState.INITWAIT else self.name.capitalize()


INITIALISING, INITWAIT, INITIALISED, CONNECTED, CLOSING, CLOSED = list(XenbusState)[1:7]

_STATES = {str(int(state)).encode(): state for state in XenbusState}


def parse_state(value: bytes | None) -> XenbusState | None:
    """The state in a node; None if there is no node, UNKNOWN (which is ignored) for anything that is no state."""
    return None if value is None else _STATES.get(value, XenbusState.UNKNOWN)
