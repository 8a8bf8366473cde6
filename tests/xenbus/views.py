"""Views and events for the tests of the state machine, and all views that can be reached."""
from functools import cache

from xenvbd import xenbus
from xenvbd.xenbus import (
    CLOSED,
    CLOSING,
    CONNECTED,
    INITIALISED,
    INITIALISING,
    INITWAIT,
    BackendState,
    DomainGone,
    Event,
    FrontendState,
    Phase,
    Plane,
    PlaneBroken,
    PlaneDied,
    PlaneFailed,
    PlaneLost,
    PlaneStarted,
    PlaneStopped,
    Published,
    PublishFailed,
    Realize,
    RingChanged,
    TryAgain,
    Unplug,
    View,
)

STARTED, STOPPED, OFFLINE = PlaneStarted(), PlaneStopped(), BackendState(CLOSING, online=False)
F = FrontendState


def play(view: View, *events: Event) -> tuple[View, str]:
    """The view after the events, and all actions as words."""
    words = []
    for event in events:
        view, actions = xenbus.step(view, event)
        words += [str(action) for action in actions]
    return view, " ".join(words)


WAITING, _ = play(View(), Realize(), Published())
STARTING, _ = play(WAITING, F(INITIALISED))
SERVING, _ = play(STARTING, STARTED, F(CONNECTED))
FAILED, _ = play(View(), Realize(), PublishFailed("no such file"))
BROKEN, _ = play(SERVING, PlaneBroken("overrun"))


STATES = [None, INITIALISING, INITIALISED, CONNECTED, CLOSING, CLOSED]      # that change anything; see below
EVENTS: list[Event] = [
    *map(FrontendState, STATES), BackendState(None),
    *(BackendState(state, online) for state in (INITIALISING, CONNECTED, CLOSING, CLOSED) for online in (True, False)),
    RingChanged(), TryAgain(), Realize(), Published(), PublishFailed("p"), STARTED, PlaneStarted(anew=True),
    PlaneFailed("f"), STOPPED, PlaneBroken("b"), PlaneDied("d"),
    PlaneLost("l"), Unplug(), Unplug(force=True), DomainGone()]
BEGINNINGS = [View(), View(created=True), *(
    xenbus.adopted(backend, frontend, online, serving=serving, stale=stale)
    for backend in (INITWAIT, CONNECTED, CLOSING, CLOSED) for frontend in STATES
    for online in (True, False) for serving, stale in ((True, False), (True, True), (False, False))), *(
    xenbus.adopted(backend, frontend, True, serving=False, died=True, stale=stale)
    for backend in (INITWAIT, CONNECTED, CLOSING, CLOSED) for frontend in STATES for stale in (True, False))]


def sensible(view: View, event: Event) -> bool:
    """Whether an executor could send it: answers only to what was asked."""
    match event:
        case Published() | PublishFailed():
            return view.phase is Phase.PUBLISHING
        case PlaneStarted() | PlaneFailed():
            return view.plane in (Plane.STARTING, Plane.ADOPTING)
        case PlaneStopped():
            return view.plane is Plane.STOPPING
        case PlaneBroken():
            return view.plane is Plane.RUNNING
        case PlaneDied():
            return view.plane not in (Plane.NONE, Plane.DIED)
    return True


@cache
def reachable() -> frozenset[View]:
    found, new = set(BEGINNINGS), list(BEGINNINGS)
    while new:
        view = new.pop()
        for event in EVENTS:
            after, _ = xenbus.step(view, event)
            if after not in found:
                found.add(after)
                new.append(after)
    return frozenset(found)


@cache
def edges() -> list[tuple[View, Event, View, list[xenbus.Action]]]:
    return [(view, event, *xenbus.step(view, event)) for view in reachable() for event in EVENTS]
