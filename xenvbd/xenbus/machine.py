"""step(): an event changes the View, then ROWS are read until none fits."""
from __future__ import annotations

from dataclasses import replace

from xenvbd.xenbus.actions import Action, ClearError, Destroy, Publish, ReportError, SetState, TakeOffline
from xenvbd.xenbus.events import (
    BackendState,
    DomainGone,
    Event,
    FrontendState,
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
)
from xenvbd.xenbus.rows import LEFT, OPEN, READY, ROWS, Row
from xenvbd.xenbus.states import CLOSED, CLOSING, CONNECTED, INITIALISED, INITIALISING, INITWAIT, XenbusState
from xenvbd.xenbus.view import Phase, Plane, View, settle

UNPUBLISHED = (Phase.NEW, Phase.FAILED)


def step(view: View, event: Event) -> tuple[View, list[Action]]:
    """What the device knows after the event, and what is to be done, in order.  Any event is allowed in any state;
    one that makes no sense there (a late answer, a second unplug) changes nothing."""
    if view.phase is Phase.GONE:
        return view, []
    view, actions = _take(view, event)
    for _ in ROWS:              # a bound: in fact no event needs more than three
        row = next((row for row in ROWS if _fits(row, view)), None)
        if row is None:
            break
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
        case Realize() if view.phase in UNPUBLISHED and view.backend is INITIALISING and view.online:
            return replace(view, phase=Phase.PUBLISHING), [Publish()]
        case Published() if view.phase is Phase.PUBLISHING:
            view, actions = _cleared(replace(view, phase=Phase.LIVE, backend=INITWAIT))
            return view, actions if not view.gone else []
        case PublishFailed(message) if view.phase is Phase.PUBLISHING:
            return _publish_failed(view, message)
        case Unplug(force):
            return _unplug(view, force)
        case RingChanged() if view.frontend in READY:
            stale = view.stale or view.plane not in (Plane.NONE, Plane.STOPPING)
            return replace(view, stale=stale, failed=False, broken=False), []
        case TryAgain():
            return replace(view, failed=False), []
        case DomainGone():
            return replace(view, frontend=None, online=False, forced=True), []
        case _:
            return _plane(view, event)


def _frontend(view: View, state: XenbusState | None) -> View:
    state = settle(state)
    if state == view.frontend or (state is not None and not INITIALISING <= state <= CLOSED):
        return view
    resumed = state in READY and (view.frontend is CLOSING or state is INITIALISED) and not view.broken
    stale = view.plane not in (Plane.NONE, Plane.STOPPING) and (state in LEFT or resumed)
    return replace(view, frontend=state, failed=False, stale=view.stale or stale)


def _backend(view: View, state: XenbusState | None, online: bool) -> View:
    """A toolstack closes the device (online=0, state=Closing), or gave up waiting (Closed), or removed the area.

    All else there is ours, once it is published."""
    if state is None:
        return replace(view, gone=True)
    view = replace(view, online=online and not view.forced)
    if view.phase in UNPUBLISHED and state in (INITIALISING, CLOSING, CLOSED):
        return replace(view, backend=state)
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
        case PlaneStarted(anew), (Plane.STARTING | Plane.ADOPTING):
            view = replace(view, plane=Plane.RUNNING, owed=view.owed or anew)
            return _started(view) if view.owed else (view, [])
        case (PlaneFailed(message) | PlaneLost(message)), (Plane.STARTING | Plane.ADOPTING):
            # A ring that was in use cannot be tried again: only its frontend can bring it back.
            new = replace(view, plane=Plane.NONE, failed=view.owed and not view.stale,
                          broken=view.broken or not (view.owed or view.stale), stale=False)
            return (new, []) if view.stale else _reported(new, message)
        case PlaneBroken(message), (Plane.STARTING | Plane.RUNNING | Plane.ADOPTING):
            return _reported(replace(view, broken=True), message)
        case PlaneLost(message), (Plane.RUNNING | Plane.DIED):
            return _reported(replace(view, plane=Plane.NONE, broken=True, stale=False), message)
        case PlaneDied(), (Plane.STARTING | Plane.RUNNING | Plane.ADOPTING):
            return replace(view, plane=Plane.DIED), []
        case (PlaneStopped() | PlaneDied() | PlaneLost()), Plane.STOPPING:
            return replace(view, plane=Plane.NONE, stale=False), []
    return view, []


def _started(view: View) -> tuple[View, list[Action]]:
    """Connected is written again if the frontend resumed: it waits for that."""
    if view.gone or view.forced or view.stale or view.backend not in OPEN or view.frontend not in READY:
        return view, []
    view, actions = _cleared(replace(view, backend=CONNECTED, owed=False))
    return view, [*actions, SetState(CONNECTED)]
