"""The XenBus state machine of one vbd as a pure function: step(view, event) -> (view, actions).

An event changes what the device knows (its View); then ROWS, read from the top, say what to do about it: the first
row that fits acts, and again, until none fits.  table() prints ROWS.  Starting and stopping the data plane take
time, so they are states too; whatever happens meanwhile is kept in the View and answered afterwards.

Rules that hold in every state: one plane at most; Closed is written only when no plane is left (drained and
unmapped); a removed area is never written; Initialised is never used, because Linux does not connect to it
(FreeBSD r334027); once Connected, the backend leaves that state only when the frontend or the toolstack asks, since
Linux kills the disk at Closing.  That is also what lets a data plane be restarted behind a guest's back."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Any


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


class Phase(Enum):
    """Where the device is in its life."""

    NEW = "new"                     # claimed; nothing was written
    PUBLISHING = "publishing"       # Publish is under way
    FAILED = "failed"               # Publish failed; waits until the toolstack takes it away
    LIVE = "live"                   # published
    GONE = "gone"                   # destroyed; the end


class Plane(Enum):
    """The data plane."""

    NONE = "none"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True)
class View:
    """All that the device knows.

    backend is what we wrote last, or what a toolstack wrote and we took over.  frontend is None when its area is
    gone.  created: both areas are ours.  gone: the backend area was removed.  forced: the frontend is not waited for.
    stale: the plane belongs to an earlier connection.  failed: the plane did not start with what the frontend
    says now.  broken: the ring was stopped for good.  error: an error node stands in the backend area."""

    phase: Phase = Phase.NEW
    backend: XenbusState = INITIALISING
    frontend: XenbusState | None = INITIALISING
    online: bool = True
    plane: Plane = Plane.NONE
    created: bool = False
    gone: bool = False
    forced: bool = False
    stale: bool = False
    failed: bool = False
    broken: bool = False
    error: bool = False


def adopted(backend: XenbusState, frontend: XenbusState | None, online: bool, *, serving: bool,
            created: bool = False) -> View:
    """The View of a vbd that an earlier manager published.

    serving: a worker runs its plane, and PlaneStarted is to be the next event.  A vbd that is Connected and has no
    plane is broken: only its frontend can bring it back."""
    given_up = serving and backend is CLOSED        # by a toolstack: we write Closed when no plane is left
    return View(phase=Phase.LIVE, backend=CLOSING if given_up else backend, frontend=_settle(frontend),
                online=online, forced=given_up and not online, created=created,
                plane=Plane.STARTING if serving else Plane.NONE, broken=backend is CONNECTED and not serving)


# --- events ---

@dataclass(frozen=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True)
class Realize(Event):
    """The device is to be published: an area was found with online=1 and state=1, or we are to create one."""


@dataclass(frozen=True)
class Published(Event):
    """Publish is done: the area says InitWait."""


@dataclass(frozen=True)
class PublishFailed(Event):
    """Publish failed, and wrote nothing."""

    message: str


@dataclass(frozen=True)
class FrontendState(Event):
    """The frontend's state node, read now; None if it is gone."""

    state: XenbusState | None


@dataclass(frozen=True)
class BackendState(Event):
    """The backend's state and online nodes, read now in one transaction; None if the area is gone."""

    state: XenbusState | None
    online: bool = False


@dataclass(frozen=True)
class PlaneStarted(Event):
    """Connect is done."""


@dataclass(frozen=True)
class PlaneFailed(Event):
    """Connect failed, and left nothing behind."""

    message: str


@dataclass(frozen=True)
class PlaneStopped(Event):
    """Disconnect is done: all requests are answered, all is unmapped and unbound."""


@dataclass(frozen=True)
class PlaneBroken(Event):
    """The plane stopped serving a ring for good, because the frontend broke it; it still has it mapped."""

    message: str


@dataclass(frozen=True)
class PlaneLost(Event):
    """The process of the plane is gone, and the plane with it."""

    message: str


@dataclass(frozen=True)
class Unplug(Event):
    """An administrator detaches the disk; force: without waiting for the frontend."""

    force: bool = False


@dataclass(frozen=True)
class DomainGone(Event):
    """The frontend's domain is dead or released."""


# --- actions ---

@dataclass(frozen=True)
class Action:
    """Something to be done, in the order given."""

    def __str__(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Publish(Action):
    """Open the target, validate; create the areas if they are ours; write all nodes and InitWait in one transaction,
    which checks that the area exists and still says Initialising.  Answer Published or PublishFailed."""


@dataclass(frozen=True)
class Connect(Action):
    """Read the frontend's nodes in one transaction and start the plane.  Answer PlaneStarted or PlaneFailed."""


@dataclass(frozen=True)
class Disconnect(Action):
    """Stop the plane.  Answer PlaneStopped."""


@dataclass(frozen=True)
class SetState(Action):
    """Write the backend's state in a transaction that checks that the area exists."""

    state: XenbusState

    def __str__(self) -> str:
        return self.state.label


@dataclass(frozen=True)
class TakeOffline(Action):
    """Write online=0, and with closing also state=Closing, in one transaction that checks that the area exists."""

    closing: bool


@dataclass(frozen=True)
class ReportError(Action):
    """Write error, hotplug-error and hotplug-status=error if the area exists, and to the log."""

    message: str


@dataclass(frozen=True)
class ClearError(Action):
    """Remove error and hotplug-error, and write hotplug-status=connected."""


@dataclass(frozen=True)
class RemoveAreas(Action):
    """Remove what is ours: both areas if we created them, the backend's in a driver domain, else nothing."""


@dataclass(frozen=True)
class Destroy(Action):
    """Cancel the watches, close the target, forget the device.  Nothing comes after it."""


# --- the table ---

LEFT = frozenset({None, CLOSED, INITIALISING})          # frontend states without a ring
READY = frozenset({INITIALISED, CONNECTED})             # with a ring to be served
OPEN = frozenset({INITWAIT, CONNECTED})                 # backend states before Closing
IDLE = frozenset({Plane.NONE})
BUSY = frozenset(Plane) - IDLE
RUNNING = frozenset({Plane.RUNNING})
SETTLED = frozenset({Phase.NEW, Phase.FAILED, Phase.LIVE})
LIVE = frozenset({Phase.LIVE})
YES, NO = frozenset({True}), frozenset({False})


@dataclass(frozen=True)
class Row:
    """when: the View's fields and the values that they must have; then: its new values; do: the actions.

    A new backend state is also written."""

    why: str
    when: Mapping[str, frozenset[Any]]
    then: Mapping[str, Any]
    do: tuple[Action, ...] = field(default=())


ROWS: tuple[Row, ...] = (
    # The frontend leaves
    Row("Closing is answered with Closing; the ring is served until Closed",
        {"phase": LIVE, "gone": NO, "backend": OPEN, "frontend": frozenset({CLOSING})}, {"backend": CLOSING}),
    Row("the frontend left without Closing, or went through it unseen",
        {"phase": LIVE, "gone": NO, "backend": frozenset({CONNECTED}), "frontend": LEFT}, {"backend": CLOSING}),
    Row("the same, while its plane was starting",
        {"phase": LIVE, "gone": NO, "backend": frozenset({INITWAIT}), "frontend": LEFT, "plane": BUSY},
        {"backend": CLOSING}),
    # The plane stops
    Row("the frontend has no ring any more",
        {"plane": RUNNING, "frontend": LEFT}, {"plane": Plane.STOPPING}, (Disconnect(),)),
    Row("the frontend has another ring: it resumed, or came back from Closing",
        {"plane": RUNNING, "stale": YES}, {"plane": Plane.STOPPING}, (Disconnect(),)),
    Row("nobody waits for the frontend: forced detach, dead domain",
        {"plane": RUNNING, "forced": YES}, {"plane": Plane.STOPPING}, (Disconnect(),)),
    Row("the backend area is gone",
        {"plane": RUNNING, "gone": YES}, {"plane": Plane.STOPPING}, (Disconnect(),)),
    # Closed, once no plane is left
    Row("Closed, or an area that is gone, is answered with Closed",
        {"phase": SETTLED, "gone": NO, "plane": IDLE, "backend": OPEN | {CLOSING},
         "frontend": frozenset({None, CLOSED})}, {"backend": CLOSED}),
    Row("Closing is over: the frontend starts anew, or never had a driver",
        {"phase": SETTLED, "gone": NO, "plane": IDLE, "backend": frozenset({CLOSING}),
         "frontend": frozenset({INITIALISING})}, {"backend": CLOSED}),
    Row("Closing is over: the frontend came back before the plane had stopped",
        {"phase": LIVE, "gone": NO, "plane": IDLE, "backend": frozenset({CLOSING}), "frontend": READY,
         "online": YES, "failed": NO, "broken": NO, "forced": NO}, {"backend": CLOSED}),
    Row("forced: Closed without the frontend",
        {"phase": SETTLED, "gone": NO, "plane": IDLE, "backend": OPEN | {CLOSING}, "forced": YES},
        {"backend": CLOSED}),
    # Once more
    Row("Closed and online: ready for the next kernel",
        {"phase": LIVE, "gone": NO, "plane": IDLE, "backend": frozenset({CLOSED}), "frontend": READY | {INITIALISING},
         "online": YES, "forced": NO}, {"backend": INITWAIT}),
    # The plane starts
    Row("the frontend has a ring; it may have skipped InitWait, or Initialised",
        {"phase": LIVE, "gone": NO, "plane": IDLE, "backend": frozenset({INITWAIT}), "frontend": READY,
         "online": YES, "failed": NO, "broken": NO, "forced": NO}, {"plane": Plane.STARTING}, (Connect(),)),
    Row("the frontend resumed, and its old ring is unmapped",
        {"phase": LIVE, "gone": NO, "plane": IDLE, "backend": frozenset({CONNECTED}), "frontend": READY,
         "failed": NO, "broken": NO, "forced": NO}, {"plane": Plane.STARTING}, (Connect(),)),
    # The end
    Row("offline, and no connection to end",
        {"phase": SETTLED, "gone": NO, "plane": IDLE, "backend": frozenset({INITIALISING, INITWAIT}), "online": NO},
        {"backend": CLOSED}),
    Row("offline and Closed",
        {"phase": SETTLED, "gone": NO, "plane": IDLE, "backend": frozenset({CLOSED}), "online": NO},
        {"phase": Phase.GONE}, (RemoveAreas(), Destroy())),
    Row("the backend area is gone, and no plane is left",
        {"phase": SETTLED, "gone": YES, "plane": IDLE}, {"phase": Phase.GONE}, (RemoveAreas(), Destroy())),
)


def step(view: View, event: Event) -> tuple[View, list[Action]]:
    """What the device knows after the event, and what is to be done, in order.  Any event is allowed in any state;
    one that makes no sense there (a late answer, a second unplug) changes nothing."""
    if view.phase is Phase.GONE:
        return view, []
    view, actions = _take(view, event)
    while row := next((row for row in ROWS if _fits(row, view)), None):
        view, done = _act(row, view)
        actions += done
    return view, actions


def _fits(row: Row, view: View) -> bool:
    return all(getattr(view, name) in values for name, values in row.when.items())


def _act(row: Row, view: View) -> tuple[View, list[Action]]:
    actions = list(row.do)
    new = replace(view, **row.then)
    if "backend" not in row.then:
        return new, actions
    if new.backend is CLOSED:
        new = replace(new, broken=False)
    new, cleared = _cleared(new) if new.backend is INITWAIT else (new, [])
    return new, [*cleared, SetState(new.backend), *actions]


def _cleared(view: View) -> tuple[View, list[Action]]:
    return (replace(view, error=False), [ClearError()]) if view.error else (view, [])


def _reported(view: View, message: str) -> tuple[View, list[Action]]:
    return (view, []) if view.gone else (replace(view, error=True), [ReportError(message)])


# --- what an event changes ---

def _take(view: View, event: Event) -> tuple[View, list[Action]]:
    match event:
        case FrontendState(state):
            return _frontend(view, state), []
        case BackendState(state, online):
            return _backend(view, state, online), []
        case Realize() if view.phase in (Phase.NEW, Phase.FAILED) and view.online and not view.gone:
            return replace(view, phase=Phase.PUBLISHING), [Publish()]
        case Published() if view.phase is Phase.PUBLISHING:
            view, actions = _cleared(replace(view, phase=Phase.LIVE, backend=INITWAIT))
            return view, actions if not view.gone else []
        case PublishFailed(message) if view.phase is Phase.PUBLISHING:
            return _publish_failed(view, message)
        case Unplug(force):
            return _unplug(view, force)
        case DomainGone():
            return replace(view, frontend=None, online=False, forced=True), []
        case _:
            return _plane(view, event)


def _settle(state: XenbusState | None) -> XenbusState | None:
    """No block frontend uses InitWait; one that did would be setting up."""
    return INITIALISING if state is INITWAIT else state


def _frontend(view: View, state: XenbusState | None) -> View:
    state = _settle(state)
    if state == view.frontend or (state is not None and not INITIALISING <= state <= CLOSED):
        return view
    resumed = state in READY and (view.frontend is CLOSING or state is INITIALISED) and not view.broken
    stale = view.plane in (Plane.STARTING, Plane.RUNNING) and (state in LEFT or resumed)
    return replace(view, frontend=state, failed=False, stale=view.stale or stale)


def _backend(view: View, state: XenbusState | None, online: bool) -> View:
    """A toolstack closes the device (online=0, state=Closing), or gave up waiting (Closed), or removed the area.

    All else there is ours."""
    if state is None:
        return replace(view, gone=True)
    view = replace(view, online=online and not view.forced)
    if view.phase is Phase.PUBLISHING or state not in (CLOSING, CLOSED) or state is view.backend:
        return view
    if state is CLOSED and view.plane is Plane.NONE:
        return replace(view, backend=CLOSED, broken=False)
    return replace(view, backend=CLOSING, forced=view.forced or (state is CLOSED and not online))


def _publish_failed(view: View, message: str) -> tuple[View, list[Action]]:
    if view.created:
        return replace(view, phase=Phase.GONE), [ReportError(message), Destroy()]
    return _reported(replace(view, phase=Phase.FAILED), message)


def _unplug(view: View, force: bool) -> tuple[View, list[Action]]:
    closing = view.backend in OPEN and view.phase is Phase.LIVE
    needed = (view.online or closing) and not view.gone and view.phase is not Phase.PUBLISHING
    view = replace(view, online=False, forced=view.forced or force, backend=CLOSING if closing else view.backend)
    return view, [TakeOffline(closing)] if needed else []


def _plane(view: View, event: Event) -> tuple[View, list[Action]]:
    """Answers of the plane; those that come too late are ignored."""
    match event, view.plane:
        case PlaneStarted(), Plane.STARTING:
            return _started(replace(view, plane=Plane.RUNNING))
        case (PlaneFailed(message) | PlaneLost(message)), Plane.STARTING:
            new = replace(view, plane=Plane.NONE, failed=not view.stale, stale=False)
            return (new, []) if view.stale else _reported(new, message)
        case PlaneBroken(message), (Plane.STARTING | Plane.RUNNING):
            return _reported(replace(view, broken=True), message)
        case PlaneLost(message), Plane.RUNNING:
            return _reported(replace(view, plane=Plane.NONE, broken=True, stale=False), message)
        case (PlaneStopped() | PlaneLost()), Plane.STOPPING:
            return replace(view, plane=Plane.NONE, stale=False), []
    return view, []


def _started(view: View) -> tuple[View, list[Action]]:
    """Connected is written again if the frontend resumed: it waits for that."""
    if view.gone or view.forced or view.stale or view.backend not in OPEN or view.frontend not in READY:
        return view, []
    view, actions = _cleared(replace(view, backend=CONNECTED))
    return view, [*actions, SetState(CONNECTED)]


# --- for people ---

def table() -> str:
    """ROWS as a Markdown table; "published" is a device that Publish is done with and that was not destroyed."""
    columns = ("backend", "frontend", "plane", "online")
    lines = ["| backend | frontend | plane | online | also | do | because |", "|---|---|---|---|---|---|---|"]
    for row in ROWS:
        cells = [_values(row.when.get(name)) for name in columns]
        flags = [name if values == YES else f"not {name}" for name, values in row.when.items()
                 if name not in (*columns, "phase")]
        also = ", ".join(["published", *flags] if row.when.get("phase") == LIVE else flags)
        lines.append("| " + " | ".join([*cells, also, _doing(row), row.why]) + " |")
    return "\n".join(lines)


def _values(values: Iterable[Any] | None) -> str:
    return "any" if values is None else ", ".join(sorted(_word(value) for value in values))


def _word(value: XenbusState | Plane | bool | None) -> str:
    if isinstance(value, XenbusState):
        return value.label
    if isinstance(value, Plane):
        return value.value
    return {None: "no area", True: "yes", False: "no"}[value]


def _doing(row: Row) -> str:
    written = [SetState(row.then["backend"])] if "backend" in row.then else []
    return ", ".join(str(action) for action in [*written, *row.do])
