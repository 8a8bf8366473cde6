"""The table of the state machine: what is done about what is known."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xenvbd.xenbus.actions import Action, Adopt, Connect, Destroy, Disconnect, RemoveAreas, SetState
from xenvbd.xenbus.states import CLOSED, CLOSING, CONNECTED, INITIALISED, INITIALISING, INITWAIT, XenbusState
from xenvbd.xenbus.view import Phase, Plane

LEFT = frozenset({None, CLOSED, INITIALISING})          # frontend states without a ring
READY = frozenset({INITIALISED, CONNECTED})             # with a ring to be served
OPEN = frozenset({INITWAIT, CONNECTED})                 # backend states before Closing
IDLE = frozenset({Plane.NONE})
BUSY = frozenset(Plane) - IDLE
RUNNING = frozenset({Plane.RUNNING, Plane.ADOPTING})    # or about to
DIED = frozenset({Plane.DIED})
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
        {"gone": NO, "backend": OPEN, "frontend": frozenset({CLOSING})}, {"backend": CLOSING}),
    Row("the frontend left without Closing, or went through it unseen",
        {"gone": NO, "backend": frozenset({CONNECTED}), "frontend": LEFT}, {"backend": CLOSING}),
    Row("the same, while its plane was starting",
        {"gone": NO, "backend": frozenset({INITWAIT}), "frontend": LEFT, "plane": BUSY},
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
    # The plane's process died
    Row("the plane died, and the frontend has no ring any more",
        {"plane": DIED, "frontend": LEFT}, {"plane": Plane.NONE, "stale": False}),
    Row("the plane died, and the frontend has another ring",
        {"plane": DIED, "stale": YES}, {"plane": Plane.NONE, "stale": False}),
    Row("the plane died, and nobody waits for the frontend",
        {"plane": DIED, "forced": YES}, {"plane": Plane.NONE, "stale": False}),
    Row("the plane died, and the backend area is gone",
        {"plane": DIED, "gone": YES}, {"plane": Plane.NONE, "stale": False}),
    Row("the plane died, and its ring had been stopped for good",
        {"plane": DIED, "broken": YES}, {"plane": Plane.NONE, "stale": False}),
    Row("the plane died: another takes the ring over, and the frontend sees no state change",
        {"plane": DIED}, {"plane": Plane.ADOPTING}, (Adopt(),)),
    # Closed, once no plane is left
    Row("Closed, or an area that is gone, is answered with Closed",
        {"gone": NO, "plane": IDLE, "backend": OPEN | {CLOSING},
         "frontend": frozenset({None, CLOSED})}, {"backend": CLOSED}),
    Row("Closing is over: the frontend starts anew, or never had a driver",
        {"gone": NO, "plane": IDLE, "backend": frozenset({CLOSING}),
         "frontend": frozenset({INITIALISING})}, {"backend": CLOSED}),
    Row("Closing is over: the frontend came back before the plane had stopped",
        {"gone": NO, "plane": IDLE, "backend": frozenset({CLOSING}), "frontend": READY,
         "online": YES, "failed": NO, "broken": NO}, {"backend": CLOSED}),
    Row("forced: Closed without the frontend",
        {"gone": NO, "plane": IDLE, "backend": OPEN | {CLOSING}, "forced": YES},
        {"backend": CLOSED}),
    # Once more
    Row("Closed and online: ready for the next kernel",
        {"phase": LIVE, "gone": NO, "backend": frozenset({CLOSED}), "frontend": READY | {INITIALISING},
         "online": YES}, {"backend": INITWAIT}),
    # The plane starts
    Row("the frontend has a ring; it may have skipped InitWait, or Initialised",
        {"gone": NO, "plane": IDLE, "backend": frozenset({INITWAIT}), "frontend": READY,
         "online": YES, "failed": NO, "broken": NO}, {"plane": Plane.STARTING, "owed": True}, (Connect(),)),
    Row("the frontend resumed, and its old ring is unmapped",
        {"gone": NO, "plane": IDLE, "backend": frozenset({CONNECTED}), "frontend": READY,
         "failed": NO, "broken": NO}, {"plane": Plane.STARTING, "owed": True}, (Connect(),)),
    # The end
    Row("offline, and no connection to end",
        {"phase": SETTLED, "gone": NO, "plane": IDLE, "backend": frozenset({INITIALISING, INITWAIT}), "online": NO},
        {"backend": CLOSED}),
    Row("offline and Closed",
        {"phase": SETTLED, "backend": frozenset({CLOSED}), "online": NO},
        {"phase": Phase.GONE}, (RemoveAreas(), Destroy())),
    Row("the backend area is gone, and no plane is left",
        {"phase": SETTLED, "gone": YES, "plane": IDLE}, {"phase": Phase.GONE}, (RemoveAreas(), Destroy())),
)




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
