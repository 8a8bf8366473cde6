"""A frontend's side of XenBus: its own area, the backend's, and waits that a deadline bounds.

The node names here and in persona.py are written out on purpose, not taken from xenvbd.features: the frontend is the
peer, and a name that the backend misspells must not be misspelt here as well.
"""
from __future__ import annotations

import enum
import errno
import select
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from xenvbd.errors import Error, StoreError

T = TypeVar("T")
Note = Callable[[str, dict[str, Any]], None]


class State(enum.IntEnum):
    """enum xenbus_state of xen/io/xenbus.h."""

    Unknown = 0
    Initialising = 1
    InitWait = 2
    Initialised = 3
    Connected = 4
    Closing = 5
    Closed = 6
    Reconfiguring = 7
    Reconfigured = 8


# What a StoreError says when the connection is gone, not a node.
LOST = frozenset({errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNREFUSED})


class HandshakeError(Error):
    """The handshake cannot go on: a node is missing or wrong, or the backend refused."""


class HandshakeTimeout(HandshakeError, TimeoutError):
    """A node did not become what the handshake waits for by the deadline."""


class Reader(Protocol):
    """What a store and a transaction have in common."""

    def get(self, path: str, default: bytes | None = None) -> bytes | None: ...
    def write(self, path: str, value: bytes | str) -> None: ...
    def rm(self, path: str) -> None: ...


def get(reader: Reader, path: str) -> bytes | None:
    """A node's value; None if it is absent.  To a guest a removed area looks forbidden, not absent: xenstored tells
    who may not read the parent nothing of its children."""
    try:
        return reader.get(path, None)
    except StoreError as error:
        if error.errno == errno.EACCES:
            return None
        raise


def parse_state(value: bytes | None) -> State | None:
    """The state a node holds; None if it is absent or no state."""
    try:
        return State(int(value)) if value is not None and value.isdigit() else None
    except ValueError:
        return None


def shown(value: bytes | None) -> str:
    """A node's value for an error message, a state by its name."""
    if value is None:
        return "no node"
    state = parse_state(value)
    return f"{value.decode('ascii', 'backslashreplace')!r}" + (f" ({state.name})" if state is not None else "")


class Bus:
    """One device of one frontend: Bus(store, domid, devid, timeout=seconds for each wait, note=callback).

    note(event, fields) is told what happens: "state" when a side's state changes, "node" when a node is written."""

    def __init__(self, store: Any, domid: int, devid: int, *, timeout: float = 10.0, who: str = "frontend",
                 note: Note | None = None) -> None:
        self.store = store
        self.who = who
        self.timeout = timeout
        self.frontend = f"/local/domain/{domid}/device/vbd/{devid}"
        self.backend = ""
        self.backend_id = 0
        self._note = note or (lambda event, fields: None)
        self._states: dict[str, State | None] = {"frontend": None, "backend": None}
        self._watches = [store.watch(f"{self.frontend}/backend", lambda path: None)]

    def find(self) -> None:
        """Wait for our area to name its backend; read where it is, and watch its state."""
        path = self.await_node(f"{self.frontend}/backend", lambda value: value, "the backend's path")
        domid = self.await_node(f"{self.frontend}/backend-id", lambda value: value, "the backend's domain")
        if not domid.isdigit():
            raise HandshakeError(errno.EINVAL, f"is {shown(domid)}, not a domain", path=f"{self.frontend}/backend-id")
        self.backend_id = int(domid)
        if path.decode("ascii", "replace") == self.backend:
            return
        self.backend = path.decode("ascii", "replace")
        for watch in self._watches[1:]:
            watch.cancel()
        self._watches[1:] = [self.store.watch(f"{self.backend}/state", lambda path: self._look())]
        self._look()

    def close(self) -> None:
        """Give the watches back."""
        for watch in self._watches:
            watch.cancel()
        self._watches = []

    # Nodes

    def own(self, node: str) -> bytes | None:
        """A node of our area; None if there is none."""
        return get(self.store, f"{self.frontend}/{node}")

    def theirs(self, node: str) -> bytes | None:
        """A node of the backend's area; None if there is none."""
        return get(self.store, f"{self.backend}/{node}")

    def number(self, node: str, default: int | None = None) -> int:
        """A number in the backend's area.  HandshakeError if it is absent and has no default, or is no number."""
        value = self.theirs(node)
        if value is None and default is not None:
            return default
        if value is None or not value.isdigit():
            raise HandshakeError(errno.EINVAL, f"expected a number, found {shown(value)}",
                                 path=f"{self.backend}/{node}")
        return int(value)

    def flag(self, node: str) -> bool:
        """Whether the backend says 1."""
        return self.number(node, 0) == 1

    def write(self, nodes: dict[str, str], *, transaction: bool = True, state: State | None = None) -> None:
        """Write nodes of our area, in one transaction or one by one, and with them a state if one is given."""
        if transaction:
            self.store.transaction(lambda tx: self._put(tx, nodes, state))
        else:
            self._put(self.store, nodes, state)
        for node, value in nodes.items():
            self._note("node", {"path": f"{self.frontend}/{node}", "value": value})
        if state is not None:
            self._changed("frontend", state)

    def _put(self, to: Reader, nodes: dict[str, str], state: State | None) -> None:
        for node, value in nodes.items():
            to.write(f"{self.frontend}/{node}", value)
        if state is not None:
            to.write(f"{self.frontend}/state", str(int(state)))

    def remove(self, *nodes: str) -> None:
        """Remove nodes of our area."""
        for node in nodes:
            self.store.rm(f"{self.frontend}/{node}")

    # States

    @property
    def state(self) -> State | None:
        """Our own state, as the store has it."""
        return parse_state(self.own("state"))

    @property
    def backend_state(self) -> State | None:
        """The backend's state, as the store has it."""
        return parse_state(self.theirs("state")) if self.backend else None

    @property
    def gone(self) -> bool:
        """Whether the backend's area is no more."""
        return self.theirs("state") is None

    def switch(self, state: State) -> None:
        """Set our own state; never where the area has been removed (Linux's xenbus_switch_state)."""
        def change(tx: Reader) -> bool:
            if get(tx, f"{self.frontend}/state") is None:
                return False
            tx.write(f"{self.frontend}/state", str(int(state)))
            return True

        if not self.store.transaction(change):
            raise HandshakeError(errno.ENOENT, f"the area was removed before {state.name}", path=self.frontend)
        self._changed("frontend", state)

    def await_backend(self, *states: State, refuse: tuple[State, ...] = (), gone: bool = False) -> State:
        """Wait for the backend to be in one of these states.  refuse: states that end the wait with an error.
        gone: a vanished area ends it too, as Closed."""
        def accept(value: bytes | None) -> State | None:
            state = parse_state(value)
            if gone and value is None:
                return State.Closed
            if state in refuse:
                raise self.refused(state, states)
            return state if state in states else None

        return self.await_node(f"{self.backend}/state", accept, " or ".join(f"{s.name} ({s.value})" for s in states))

    def refused(self, state: State | None, wanted: tuple[State, ...]) -> HandshakeError:
        """The backend went elsewhere; its reason, if it left one."""
        reason = self.theirs("error") or self.theirs("hotplug-error")
        name = "no state" if state is None else state.name
        why = f": {reason.decode('utf-8', 'backslashreplace')}" if reason else ""
        names = " or ".join(s.name for s in wanted)
        return HandshakeError(errno.ECONNREFUSED, f"{self.who}: waited for {names}, the backend went to {name}{why}",
                              path=f"{self.backend}/state")

    def await_node(self, path: str, accept: Callable[[bytes | None], T | None], expected: str) -> T:
        """Wait until accept(value) is not None, and return that.  A watch on path must be set.  HandshakeTimeout."""
        deadline = time.monotonic() + self.timeout
        while True:
            value = get(self.store, path)
            self._look()
            found = accept(value)
            if found is not None:
                return found
            if self.dispatch(max(deadline - time.monotonic(), 0)) == 0 and time.monotonic() >= deadline:
                raise HandshakeTimeout(
                    errno.ETIMEDOUT, f"{self.who}: waited {self.timeout:g} s for {expected}, found {shown(value)}",
                    path=path)

    def dispatch(self, timeout: float = 0.0) -> int:
        """Deliver the watch events that are there, or those that come within timeout seconds; their number."""
        delivered: int = self.store.dispatch()
        if delivered or timeout <= 0:
            return delivered
        poll = select.poll()
        poll.register(self.store.fileno(), select.POLLIN)
        poll.poll(timeout * 1000)
        delivered = self.store.dispatch()
        return delivered

    def reconnect(self, timeout: float = 0.0) -> bool:
        """Connect to the store again, trying for so many seconds; the watches come back with it."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.store.reconnect()
                return True
            except StoreError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(min(0.05, max(deadline - time.monotonic(), 0)))

    def _look(self) -> None:
        """Note a change of the backend's state."""
        if self.backend:
            self._changed("backend", self.backend_state)

    def _changed(self, side: str, state: State | None) -> None:
        if self._states[side] == state:
            return
        self._states[side] = state
        names = {name: None if value is None else value.name for name, value in self._states.items()}
        self._note("state", {"side": side, **names})
