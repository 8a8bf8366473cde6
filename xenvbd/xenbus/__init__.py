"""The XenBus state machine of one vbd as a pure function: step(view, event) -> (view, actions).

An event changes what the device knows (its View); then ROWS, read from the top, say what to do about it: the first
row that fits acts, and again, until none fits.  table() prints ROWS.  Starting and stopping the data plane take
time, so they are states too; whatever happens meanwhile is kept in the View and answered afterwards.

Rules that hold in every state: one plane at most; Closed is written only when no plane is left (drained and
unmapped); a removed area is never written; Initialised is never used, because Linux does not connect to it
(FreeBSD r334027); once Connected, the backend leaves that state only when the frontend or the toolstack asks, since
Linux kills the disk at Closing.  That is also what lets a data plane be restarted behind a guest's back."""
from xenvbd.xenbus.actions import (
    Action,
    Adopt,
    ClearError,
    Connect,
    Destroy,
    Disconnect,
    Publish,
    RemoveAreas,
    ReportError,
    SetState,
    TakeOffline,
)
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
from xenvbd.xenbus.machine import step
from xenvbd.xenbus.rows import table
from xenvbd.xenbus.states import (
    CLOSED,
    CLOSING,
    CONNECTED,
    INITIALISED,
    INITIALISING,
    INITWAIT,
    XenbusState,
    parse_state,
)
from xenvbd.xenbus.view import Phase, Plane, View, adopted

__all__ = [
    "CLOSED", "CLOSING", "CONNECTED", "INITIALISED", "INITIALISING", "INITWAIT",
    "Action", "Adopt", "BackendState", "ClearError", "Connect", "Destroy", "Disconnect", "DomainGone", "Event",
    "FrontendState", "Phase", "Plane", "PlaneBroken", "PlaneDied", "PlaneFailed", "PlaneLost", "PlaneStarted",
    "PlaneStopped", "Publish", "PublishFailed", "Published", "Realize", "RemoveAreas", "ReportError",
    "RingChanged", "SetState", "TakeOffline", "TryAgain", "Unplug", "View", "XenbusState", "adopted", "parse_state",
    "step", "table"]
