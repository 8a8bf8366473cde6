"""A guest, a toolstack and a data plane that do as they please, in any order."""
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xenbus.views import F
from xenvbd import xenbus
from xenvbd.xenbus import (
    CLOSED,
    CLOSING,
    CONNECTED,
    INITIALISED,
    INITIALISING,
    INITWAIT,
    Adopt,
    BackendState,
    Connect,
    Destroy,
    Disconnect,
    DomainGone,
    Event,
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
    SetState,
    TakeOffline,
    TryAgain,
    Unplug,
    View,
    XenbusState,
)


class World:
    """A store, a guest, a toolstack and a data plane; watch events are merged, and values are read when handled."""

    def __init__(self) -> None:
        self.view = View()
        self.backend: XenbusState | None = INITIALISING
        self.frontend: XenbusState | None = INITIALISING
        self.online, self.planes, self.under_way = True, 0, ""
        self.dirty: set[str] = set()
        self.destroyed = False
        self.feed(Realize())

    def feed(self, event: Event) -> None:
        self.view, actions = xenbus.step(self.view, event)
        for action in actions:
            assert not self.destroyed, action
            self.execute(action)

    def execute(self, action: xenbus.Action) -> None:
        match action:
            case SetState(state):
                assert state is not CLOSED or (not self.planes and not self.under_way)
                self.write(state, self.online)
            case TakeOffline(closing):
                self.write(CLOSING if closing else self.backend, False)
            case Disconnect() if self.under_way == "Adopt":
                self.under_way = "Disconnect"
            case xenbus.Publish() | Connect() | Adopt() | Disconnect():
                assert not self.under_way
                assert self.planes == (1 if action == Disconnect() else 0)
                self.under_way = str(action)
            case Destroy():
                assert not self.planes and not self.under_way
                self.destroyed = True

    def write(self, state: XenbusState | None, online: bool) -> None:
        if self.backend is not None:
            self.backend, self.online = state, online
            self.dirty.add("backend")

    def guest(self, state: XenbusState | None) -> None:
        self.frontend = state
        self.dirty.add("frontend")

    def toolstack(self, state: XenbusState | None) -> None:
        self.write(state, False if state is None or state in (CLOSING, CLOSED) else self.online)

    def handle(self, which: str) -> None:
        if which in self.dirty:
            self.dirty.discard(which)
            self.feed(F(self.frontend) if which == "frontend" else BackendState(self.backend, self.online))

    def answer(self, well: bool) -> None:
        done, self.under_way = self.under_way, ""
        if done == "Publish":
            well = well and self.backend is INITIALISING
            if well:
                self.write(INITWAIT, self.online)
            self.feed(Published() if well else PublishFailed("p"))
        elif done in ("Connect", "Adopt"):
            self.planes = int(well)
            self.feed(PlaneStarted() if well else PlaneFailed("f"))
        elif done == "Disconnect":
            self.planes = 0
            self.feed(PlaneStopped())

    def trouble(self, kind: str) -> None:
        if kind == "died" and self.under_way in ("Connect", "Adopt"):
            self.under_way = ""
            self.feed(PlaneDied("d"))
        elif self.planes and self.under_way != "Disconnect":
            self.planes = int(kind == "broken")
            self.feed({"broken": PlaneBroken("b"), "lost": PlaneLost("l"), "died": PlaneDied("d")}[kind])

    def settle(self) -> None:
        while self.dirty or self.under_way:
            self.handle("backend")
            self.handle("frontend")
            self.answer(True)


GUEST = st.sampled_from([None, *XenbusState])
TROUBLE = st.sampled_from(["broken", "lost", "died"])
MOVES: st.SearchStrategy[Callable[[World], None]] = st.one_of(
    GUEST.map(lambda state: lambda world: world.guest(state)),
    st.sampled_from(["frontend", "backend"]).map(lambda which: lambda world: world.handle(which)),
    st.booleans().map(lambda well: lambda world: world.answer(well)),
    st.booleans().map(lambda well: lambda world: world.answer(well)))
RARE: st.SearchStrategy[Callable[[World], None]] = st.one_of(
    st.sampled_from([CLOSING, CLOSED, None]).map(lambda state: lambda world: world.toolstack(state)),
    TROUBLE.map(lambda kind: lambda world: world.trouble(kind)),
    st.booleans().map(lambda force: lambda world: world.feed(Unplug(force))),
    st.sampled_from([RingChanged(), TryAgain()]).map(lambda event: lambda world: world.feed(event)),
    st.just(lambda world: world.feed(DomainGone())))


@settings(max_examples=400)
@given(st.lists(MOVES, max_size=60), st.lists(RARE, max_size=2), st.lists(MOVES, max_size=20))
def test_no_interleaving_breaks_the_rules_and_the_end_is_always_reached(
        before: list[Callable[[World], None]], rare: list[Callable[[World], None]],
        after: list[Callable[[World], None]]) -> None:
    world = World()
    for move in (*before, *rare, *after):
        move(world)
    world.settle()
    world.toolstack(CLOSING)
    world.settle()
    world.guest(CLOSED)
    world.settle()
    assert world.destroyed


@settings(max_examples=400)
@given(st.lists(MOVES, max_size=60), TROUBLE, st.lists(MOVES, max_size=20))
def test_whatever_a_guest_did_it_can_be_connected_again(before: list[Callable[[World], None]], kind: str,
                                                        after: list[Callable[[World], None]]) -> None:
    world = World()
    for move in (*before, lambda world: world.trouble(kind), *after):
        move(world)
    world.settle()
    if world.view.phase is Phase.FAILED:
        world.backend, world.online = INITIALISING, True
        world.feed(BackendState(INITIALISING, True))
        world.feed(Realize())
        world.settle()
    for state in (CLOSING, CLOSED, INITIALISING, INITIALISED, CONNECTED):
        world.guest(state)
        world.settle()
    assert (world.backend, world.view.plane, world.planes) == (CONNECTED, Plane.RUNNING, 1)
