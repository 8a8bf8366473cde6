"""What a device knows: the View that the state machine turns into the next."""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from xenvbd.xenbus.states import CLOSED, CLOSING, CONNECTED, INITIALISED, INITIALISING, INITWAIT, XenbusState


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
    DIED = "died"                   # with its process; the ring can be taken over
    ADOPTING = "adopting"           # Adopt is under way
    STOPPING = "stopping"


@dataclass(frozen=True)
class View:
    """All that the device knows.

    backend is what we wrote last, or what a toolstack wrote and we took over.  frontend is None when its area is
    gone.  created: both areas are ours.  gone: the backend area was removed.  forced: the frontend is not waited for.
    stale: the plane belongs to an earlier connection.  owed: Connected is still to be written for this ring.  failed:
    the plane did not start with what the frontend says now.  broken: the ring was stopped for good.  error: an error
    node stands in the backend area."""

    phase: Phase = Phase.NEW
    backend: XenbusState = INITIALISING
    frontend: XenbusState | None = INITIALISING
    online: bool = True
    plane: Plane = Plane.NONE
    created: bool = False
    gone: bool = False
    forced: bool = False
    stale: bool = False
    owed: bool = False
    failed: bool = False
    broken: bool = False
    error: bool = False


def adopted(backend: XenbusState, frontend: XenbusState | None, online: bool, *, serving: bool,
            created: bool = False, died: bool = False, stale: bool = False) -> View:
    """The View of a vbd that an earlier manager published.

    serving: a worker runs its plane, and PlaneStarted is to be the next event; died: none does, but the journal of one
    is there; stale: it is of a ring that the frontend had before.  That is not known of a frontend that is Initialised
    while the backend is Connected, for it may have resumed unseen; it is connected anew, which is right in any case.
    A vbd that is Connected and has neither is broken: only its frontend can bring it back."""
    frontend = settle(frontend)
    adoptable = died and not stale and frontend in (INITIALISED, CONNECTED, CLOSING)
    plane = Plane.STARTING if serving else Plane.DIED if adoptable else Plane.NONE
    given_up = plane is not Plane.NONE and backend is CLOSED    # by a toolstack: we write Closed when no plane is left
    unsure = backend is CONNECTED and frontend is INITIALISED
    return View(phase=Phase.LIVE, backend=CLOSING if given_up else backend, frontend=frontend,
                stale=serving and (stale or unsure), online=online, forced=given_up and not online, created=created,
                plane=plane, owed=serving or backend is INITWAIT,
                broken=backend is CONNECTED and plane is Plane.NONE and not stale)


def settle(state: XenbusState | None) -> XenbusState | None:
    """No block frontend uses InitWait; one that did would be setting up."""
    return INITIALISING if state is INITWAIT else state
