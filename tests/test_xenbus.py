"""The state machine of a vbd: what every guest does, what may go wrong meanwhile, and what never happens.

The scenarios come first; then all views that can be reached are visited with every event; then a world of a
guest, a toolstack and a data plane that do as they please."""
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenvbd import xenbus
from xenvbd.xenbus import (
    CLOSED,
    CLOSING,
    CONNECTED,
    INITIALISED,
    INITIALISING,
    INITWAIT,
    BackendState,
    ClearError,
    Connect,
    Destroy,
    Disconnect,
    DomainGone,
    Event,
    FrontendState,
    Phase,
    Plane,
    PlaneBroken,
    PlaneFailed,
    PlaneLost,
    PlaneStarted,
    PlaneStopped,
    Published,
    PublishFailed,
    Realize,
    RemoveAreas,
    ReportError,
    SetState,
    TakeOffline,
    Unplug,
    View,
    XenbusState,
    machine,
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


# --- what a node means ---

@pytest.mark.parametrize(("value", "state"), [
    (None, None), (b"1", INITIALISING), (b"6", CLOSED), (b"0", XenbusState.UNKNOWN), (b"99", XenbusState.UNKNOWN),
    (b"four", XenbusState.UNKNOWN), (b"", XenbusState.UNKNOWN), (b"4\0", XenbusState.UNKNOWN),
    (b"\xff" * 4096, XenbusState.UNKNOWN), (b" 4", XenbusState.UNKNOWN), (b"+4", XenbusState.UNKNOWN)])
def test_a_state_is_one_digit_and_anything_else_is_unknown(value: bytes | None, state: XenbusState | None) -> None:
    assert xenbus.parse_state(value) is state


def test_states_are_spelt_as_the_field_spells_them() -> None:
    assert [state.label for state in (INITIALISING, INITWAIT, CLOSED)] == ["Initialising", "InitWait", "Closed"]


# --- realize ---

def test_a_device_is_published_and_waits() -> None:
    assert play(View(), Realize(), Published()) == (View(phase=Phase.LIVE, backend=INITWAIT), "Publish")


def test_an_area_that_is_offline_is_not_published() -> None:
    view, words = play(View(), BackendState(INITIALISING, online=False), Realize())
    assert (view.phase, words) == (Phase.GONE, "Closed RemoveAreas Destroy")


def test_an_area_that_cannot_be_published_says_so_and_is_forgotten_when_it_goes() -> None:
    assert FAILED.error
    assert play(View(), Realize(), PublishFailed("x"))[1] == "Publish ReportError"
    assert play(FAILED, BackendState(None))[1] == "RemoveAreas Destroy"
    assert play(FAILED, OFFLINE)[1] == "Closed RemoveAreas Destroy"


def test_publishing_may_be_tried_again() -> None:
    view, words = play(FAILED, Realize(), Published())
    assert (view, words) == (WAITING, "Publish ClearError")


def test_areas_of_our_own_that_cannot_be_made_are_forgotten_at_once() -> None:
    view, words = play(View(created=True), Realize(), PublishFailed("exists"))
    assert (view.phase, words) == (Phase.GONE, "Publish ReportError Destroy")


# --- connect ---

@pytest.mark.parametrize("states", [(INITIALISED,), (CONNECTED,), (INITIALISED, CONNECTED)],
                         ids=["Linux", "MiniOS goes straight to Connected", "both seen before the plane runs"])
def test_a_frontend_with_a_ring_is_connected(states: tuple[XenbusState, ...]) -> None:
    view, words = play(WAITING, *map(F, states), STARTED)
    assert (view.backend, view.plane, words) == (CONNECTED, Plane.RUNNING, "Connect Connected")


@pytest.mark.parametrize("state", [INITIALISED, CONNECTED], ids=["GRUB", "MiniOS"])
def test_a_frontend_that_did_not_wait_for_init_wait_is_connected(state: XenbusState) -> None:
    assert play(View(), F(state), Realize(), F(state), Published(), STARTED)[1] == "Publish Connect Connected"


def test_windows_closes_and_starts_again_at_its_first_boot() -> None:
    words = play(WAITING, F(CLOSING), F(CLOSED), F(INITIALISING), F(INITIALISED), STARTED, F(CONNECTED))[1]
    assert words == "Closing Closed InitWait Connect Connected"


def test_windows_dance_may_begin_before_we_are_there() -> None:
    assert play(View(), F(CLOSING), Realize(), Published(), F(CLOSED), F(INITIALISING))[1] == \
        "Publish Closing Closed InitWait"


def test_what_is_connected_stays_so_whatever_the_frontend_repeats() -> None:
    assert play(SERVING, F(CONNECTED), F(CONNECTED), STARTED)[1] == ""


@pytest.mark.parametrize("state", [XenbusState.UNKNOWN, XenbusState.RECONFIGURING, XenbusState.RECONFIGURED])
def test_states_that_no_block_frontend_uses_are_ignored(state: XenbusState) -> None:
    for view in (WAITING, STARTING, SERVING):
        assert play(view, F(state)) == (view, "")


# --- a plane that does not start ---

def test_a_connection_that_fails_is_reported_and_a_new_try_works() -> None:
    view, words = play(STARTING, PlaneFailed("no such grant"))
    assert (view.backend, view.plane, words) == (INITWAIT, Plane.NONE, "ReportError")
    assert play(view, F(INITIALISED))[1] == "", "what was seen already is no new try"
    assert play(view, F(CLOSING), F(CLOSED), F(INITIALISING), F(INITIALISED), STARTED)[1] == \
        "Closing Closed ClearError InitWait Connect Connected"


def test_a_frontend_that_moves_on_after_a_failure_is_tried_again() -> None:
    view, _ = play(STARTING, PlaneFailed("not yet"))
    assert play(view, F(CONNECTED), STARTED)[1] == "Connect ClearError Connected"


def test_the_failure_of_a_connection_that_was_given_up_is_no_error() -> None:
    view, words = play(STARTING, F(CLOSED), F(INITIALISING), F(INITIALISED), PlaneFailed("torn nodes"), STARTED)
    assert (view.backend, words) == (CONNECTED, "Closing Closed InitWait Connect Connected")


# --- disconnect ---

def test_closing_is_echoed_at_once_and_closed_when_the_plane_has_stopped() -> None:
    view, words = play(SERVING, F(CLOSING), F(CLOSED))
    assert (view.plane, words) == (Plane.STOPPING, "Closing Disconnect")
    assert play(view, STOPPED)[1] == "Closed"


def test_kdump_and_freebsd_get_an_answer_to_each_state() -> None:
    view = SERVING
    for event, answer in ((F(CLOSING), "Closing"), (F(CLOSED), "Disconnect"), (STOPPED, "Closed"),
                          (F(INITIALISING), "InitWait"), (F(INITIALISED), "Connect"), (STARTED, "Connected")):
        view, words = play(view, event)
        assert words == answer


@pytest.mark.parametrize("state", [CLOSED, None, INITIALISING],
                         ids=["straight to Closed", "area gone", "a kernel that never closed"])
def test_a_frontend_that_left_without_closing_is_closed(state: XenbusState | None) -> None:
    view, words = play(SERVING, F(state), STOPPED)
    assert words.startswith("Closing Disconnect Closed")
    assert (view.backend, view.plane) == (INITWAIT if state is INITIALISING else CLOSED, Plane.NONE)


def test_a_frontend_may_close_while_its_plane_starts() -> None:
    view, words = play(STARTING, F(CLOSING), STARTED)
    assert (view.plane, words) == (Plane.RUNNING, "Closing")
    assert play(view, F(CLOSED), STOPPED)[1] == "Disconnect Closed"


def test_a_frontend_that_closed_while_its_plane_started_has_it_stopped_first() -> None:
    assert play(STARTING, F(CLOSING), F(CLOSED), STARTED, STOPPED)[1] == "Closing Disconnect Closed"


def test_a_frontend_that_comes_back_while_its_plane_stops_is_connected_afterwards() -> None:
    view, words = play(SERVING, F(CLOSED), F(INITIALISING), F(INITIALISED), STOPPED, STARTED)
    assert words == "Closing Disconnect Closed InitWait Connect Connected"
    assert view.plane is Plane.RUNNING


def test_a_frontend_that_came_back_while_its_plane_started_gets_a_plane_of_its_own() -> None:
    assert play(STARTING, F(CLOSED), F(INITIALISING), F(INITIALISED), STARTED, STOPPED, STARTED)[1] == \
        "Closing Disconnect Closed InitWait Connect Connected"


def test_a_frontend_that_resumes_has_its_new_ring_connected_while_we_stay_connected() -> None:
    view, words = play(SERVING, F(INITIALISED), STOPPED, STARTED)
    assert (view.backend, words) == (CONNECTED, "Disconnect Connect Connected")


def test_a_frontend_that_takes_closing_back_is_connected_anew() -> None:
    assert play(SERVING, F(CLOSING), F(CONNECTED), STOPPED, STARTED)[1] == \
        "Closing Disconnect Closed InitWait Connect Connected"


def test_a_frontend_at_init_wait_is_setting_up() -> None:
    assert play(WAITING, F(INITWAIT), F(INITIALISED))[1] == "Connect"


# --- a ring that was broken, a worker that died ---

def test_a_broken_ring_is_left_by_closed_and_initialising_only() -> None:
    assert play(SERVING, PlaneBroken("overrun"))[1] == "ReportError"
    assert play(BROKEN, F(INITIALISED), F(CONNECTED)) == (BROKEN, "")
    view, words = play(BROKEN, F(CLOSING), F(CONNECTED), F(CLOSED), STOPPED, F(INITIALISING), F(INITIALISED), STARTED)
    assert words == "Closing Disconnect Closed ClearError InitWait Connect Connected"
    assert not view.broken and not view.error


def test_a_lost_worker_leaves_the_guest_connected_until_it_closes() -> None:
    view, words = play(SERVING, PlaneLost("killed"))
    assert (view.backend, view.plane, words) == (CONNECTED, Plane.NONE, "ReportError")
    assert play(view, F(CLOSING), F(CLOSED), F(INITIALISING))[1] == "Closing Closed ClearError InitWait"
    assert play(view, F(INITIALISING))[1] == "Closing Closed ClearError InitWait"


def test_a_worker_lost_while_stopping_has_stopped() -> None:
    assert play(SERVING, F(CLOSED), PlaneLost("killed"))[1] == "Closing Disconnect Closed"


def test_a_worker_lost_while_starting_has_not_started() -> None:
    assert play(STARTING, PlaneLost("killed"))[1] == "ReportError"


# --- unplug ---

def test_a_toolstack_unplugs() -> None:
    view, words = play(SERVING, OFFLINE)
    assert (view.plane, words) == (Plane.RUNNING, "")
    assert play(view, F(CLOSING), F(CLOSED), STOPPED)[1] == "Disconnect Closed RemoveAreas Destroy"


def test_an_administrator_unplugs_once_however_often_he_asks() -> None:
    _, actions = xenbus.step(SERVING, Unplug())
    assert actions == [TakeOffline(closing=True)]
    view, words = play(SERVING, Unplug(), OFFLINE, Unplug(), F(CLOSING), F(CLOSED), STOPPED)
    assert (view.phase, words) == (Phase.GONE, "TakeOffline Disconnect Closed RemoveAreas Destroy")


def test_a_disk_without_a_driver_is_unplugged_at_once() -> None:
    assert play(WAITING, OFFLINE)[1] == "Closed RemoveAreas Destroy"
    assert play(WAITING, Unplug())[1] == "TakeOffline Closed RemoveAreas Destroy"
    assert play(WAITING, BackendState(INITWAIT, online=False))[1] == "Closed RemoveAreas Destroy"


def test_a_disk_that_is_closed_is_only_taken_offline() -> None:
    view, _ = play(SERVING, F(CLOSED), STOPPED)
    assert xenbus.step(view, Unplug())[1] == [TakeOffline(closing=False), RemoveAreas(), Destroy()]


def test_an_unplug_while_publishing_waits_for_its_end() -> None:
    view, words = play(View(), Realize(), Unplug(), F(INITIALISED))
    assert (view.phase, words) == (Phase.PUBLISHING, "Publish")
    assert play(view, Published())[1] == "Closed RemoveAreas Destroy"
    assert play(view, PublishFailed("x"))[1] == "ReportError Closed RemoveAreas Destroy"


def test_a_guest_that_refuses_to_close_keeps_its_disk_until_force() -> None:
    view, _ = play(SERVING, Unplug(), F(CONNECTED))
    assert view.plane is Plane.RUNNING
    assert play(view, Unplug(force=True), STOPPED)[1] == "Disconnect Closed RemoveAreas Destroy"


def test_a_toolstack_that_gave_up_waiting_forces_it() -> None:
    assert play(SERVING, OFFLINE, BackendState(CLOSED, online=False), STOPPED)[1] == \
        "Disconnect Closed RemoveAreas Destroy"


def test_closed_written_by_a_toolstack_is_taken_for_what_it_is() -> None:
    assert play(FAILED, BackendState(CLOSED, online=False))[1] == "RemoveAreas Destroy"
    view, words = play(SERVING, BackendState(CLOSED, online=True))
    assert (view.backend, view.plane, words) == (CLOSING, Plane.RUNNING, "")


def test_offline_alone_waits_for_the_guest_to_close() -> None:
    view, words = play(SERVING, BackendState(CONNECTED, online=False))
    assert (view.plane, words) == (Plane.RUNNING, "")
    assert play(view, F(CLOSING), F(CLOSED), STOPPED)[1] == "Closing Disconnect Closed RemoveAreas Destroy"


def test_online_again_in_time_keeps_the_device() -> None:
    view, _ = play(SERVING, BackendState(CONNECTED, online=False), BackendState(CONNECTED, online=True))
    assert view == SERVING


# --- what vanishes ---

def test_a_dead_domain_has_its_disk_destroyed() -> None:
    assert play(SERVING, DomainGone(), STOPPED)[1] == "Closing Disconnect Closed RemoveAreas Destroy"
    assert play(STARTING, DomainGone(), STARTED, STOPPED)[1] == "Closing Disconnect Closed RemoveAreas Destroy"
    assert play(WAITING, DomainGone())[1] == "Closed RemoveAreas Destroy"


def test_a_dead_domain_does_not_come_back_online() -> None:
    view, _ = play(SERVING, DomainGone(), BackendState(CLOSING, online=True), F(INITIALISING), STOPPED)
    assert view.phase is Phase.GONE


def test_a_backend_area_that_vanished_is_never_written_again() -> None:
    assert play(SERVING, BackendState(None), F(None), STOPPED)[1] == "Disconnect RemoveAreas Destroy"
    assert play(STARTING, BackendState(None), PlaneFailed("x"))[1] == "RemoveAreas Destroy"
    assert play(View(), Realize(), BackendState(None), Unplug(), Published())[1] == "Publish RemoveAreas Destroy"


def test_a_destroyed_device_does_nothing() -> None:
    view, _ = play(WAITING, Unplug())
    for event in EVENTS:
        assert xenbus.step(view, event) == (view, [])


# --- after a restart of the manager ---

def test_a_vbd_whose_worker_lived_on_is_taken_over_without_leaving_connected() -> None:
    view = xenbus.adopted(CONNECTED, CONNECTED, True, serving=True)
    assert play(view, STARTED) == (SERVING, "Connected")


def test_a_vbd_whose_frontend_left_meanwhile_is_closed() -> None:
    view = xenbus.adopted(CONNECTED, CLOSED, True, serving=True)
    assert play(view, STARTED, STOPPED)[1] == "Closing Disconnect Closed"


def test_a_vbd_whose_worker_died_too_waits_for_its_frontend() -> None:
    view = xenbus.adopted(CONNECTED, CONNECTED, True, serving=False)
    assert play(view, F(CONNECTED))[1] == ""
    assert play(view, F(CLOSING), F(CLOSED), F(INITIALISING), F(INITIALISED))[1] == "Closing Closed InitWait Connect"


# --- every view, every event ---

STATES = [None, INITIALISING, INITIALISED, CONNECTED, CLOSING, CLOSED]      # that change anything; see below
EVENTS: list[Event] = [
    *map(FrontendState, STATES), BackendState(None),
    *(BackendState(state, online) for state in (CONNECTED, CLOSING, CLOSED) for online in (True, False)),
    Realize(), Published(), PublishFailed("p"), STARTED, PlaneFailed("f"), STOPPED, PlaneBroken("b"), PlaneLost("l"),
    Unplug(), Unplug(force=True), DomainGone()]
BEGINNINGS = [View(), View(created=True), *(
    xenbus.adopted(backend, frontend, online, serving=serving)
    for backend in (INITWAIT, CONNECTED, CLOSING, CLOSED) for frontend in STATES
    for online in (True, False) for serving in (True, False))]


def sensible(view: View, event: Event) -> bool:
    """Whether an executor could send it: answers only to what was asked."""
    match event:
        case Published() | PublishFailed():
            return view.phase is Phase.PUBLISHING
        case PlaneStarted() | PlaneFailed():
            return view.plane is Plane.STARTING
        case PlaneStopped():
            return view.plane is Plane.STOPPING
        case PlaneBroken():
            return view.plane is Plane.RUNNING
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


def test_the_views_are_few_enough_to_visit_all() -> None:
    assert 500 < len(reachable()) < 20000


def test_the_states_that_are_not_visited_change_nothing_or_are_as_others() -> None:
    for view in reachable():
        for state in (XenbusState.UNKNOWN, XenbusState.RECONFIGURING, XenbusState.RECONFIGURED):
            assert machine._frontend(view, state) == view
        assert machine._frontend(view, INITWAIT) == machine._frontend(view, INITIALISING)
        for state in set(XenbusState) - {CONNECTED, CLOSING, CLOSED}:
            assert machine._backend(view, state, True) == machine._backend(view, CONNECTED, True)


def test_a_device_that_is_closed_has_no_plane() -> None:
    for view in reachable():
        assert view.backend is not CLOSED or view.plane is Plane.NONE


def test_there_is_never_a_second_plane_and_never_closed_while_one_is_left() -> None:
    for view, event, after, actions in edges():
        plane = view.plane
        if isinstance(event, PlaneStarted | PlaneFailed | PlaneLost | PlaneStopped) and sensible(view, event):
            plane = Plane.RUNNING if isinstance(event, PlaneStarted) else Plane.NONE
        for action in actions:
            if isinstance(action, Connect):
                assert plane is Plane.NONE, (view, event)
                plane = Plane.STARTING
            elif isinstance(action, Disconnect):
                assert plane is Plane.RUNNING, (view, event)
                plane = Plane.STOPPING
            elif action in (Destroy(), SetState(CLOSED), SetState(INITWAIT)):
                assert plane is Plane.NONE, (view, event)
            elif action == SetState(CONNECTED):
                assert plane is Plane.RUNNING, (view, event)
        assert plane is after.plane, (view, event)


def test_an_answer_that_was_not_asked_for_changes_no_plane_and_no_phase() -> None:
    for view, event, after, actions in edges():
        if isinstance(event, Published | PublishFailed | PlaneStarted | PlaneFailed | PlaneStopped) \
                and not sensible(view, event):
            settled, done = xenbus.step(view, F(view.frontend))
            assert (after, actions) == (settled, done)


def test_only_init_wait_connected_closing_and_closed_are_ever_written() -> None:
    for _, _, _, actions in edges():
        for action in actions:
            if isinstance(action, SetState):
                assert action.state in (INITWAIT, CONNECTED, CLOSING, CLOSED)


def test_each_state_is_written_from_where_frontends_expect_it() -> None:
    follows = {INITWAIT: (CLOSED,), CONNECTED: (INITWAIT, CONNECTED), CLOSING: (INITWAIT, CONNECTED),
               CLOSED: (INITIALISING, INITWAIT, CONNECTED, CLOSING)}
    for view, event, _, actions in edges():
        backend = INITWAIT if isinstance(event, Published) and sensible(view, event) else view.backend
        if any(isinstance(action, TakeOffline) and action.closing for action in actions) or (
                isinstance(event, BackendState | Unplug)):
            backend = machine._take(view, event)[0].backend
        for action in actions:
            if isinstance(action, SetState):
                assert backend in follows[action.state], (view, event, actions)
                backend = action.state


def test_connected_is_left_only_for_the_frontend_the_toolstack_or_a_dead_domain() -> None:
    for view, event, after, _ in edges():
        if view.backend is CONNECTED and after.backend is not CONNECTED:
            asked = isinstance(event, FrontendState | BackendState | Unplug | DomainGone)
            assert asked or view.frontend not in (INITIALISED, CONNECTED) or view.forced, (view, event)


def test_nothing_is_done_after_destroy_and_nothing_is_written_to_an_area_that_is_gone() -> None:
    for view, event, after, actions in edges():
        if Destroy() in actions:
            assert actions.index(Destroy()) == len(actions) - 1
        assert (Destroy() in actions) == (after.phase is Phase.GONE is not view.phase)
        if view.gone or after.gone:
            for action in actions:
                assert not isinstance(action, SetState | TakeOffline | ReportError | ClearError) or \
                    (view.created and isinstance(event, PublishFailed)), (view, event)


def test_the_same_news_twice_does_nothing_more() -> None:
    for view, event, after, actions in edges():
        ours = isinstance(event, BackendState) and any(isinstance(action, SetState) for action in actions)
        if isinstance(event, FrontendState | BackendState | DomainGone | Unplug) and not ours:
            assert xenbus.step(after, event) == (after, []), (view, event)


def test_no_view_is_left_with_something_to_do() -> None:
    for after in {after for _, _, after, _ in edges()}:
        assert not any(machine._fits(row, after) for row in machine.ROWS)


def answered(view: View) -> View:
    """The view after whatever is under way came to its end, well."""
    while answer := {Plane.STARTING: STARTED, Plane.STOPPING: STOPPED}.get(view.plane) or (
            Published() if view.phase is Phase.PUBLISHING else None):
        view, _ = xenbus.step(view, answer)
    return view


def visit(view: View, *events: Event) -> View:
    for event in events:
        view = answered(xenbus.step(answered(view), event)[0])
    return view


def test_a_well_behaved_guest_always_gets_back_to_connected() -> None:
    for view in reachable():
        if view.online and not (view.forced or view.gone or view.phase is Phase.GONE):
            after = visit(view, Realize(), F(CLOSING), F(CLOSED), F(INITIALISING), F(INITIALISED), F(CONNECTED))
            assert (after.backend, after.plane) == (CONNECTED, Plane.RUNNING), view
            assert not (after.broken or after.error or after.failed or after.stale)


def test_offline_and_closed_always_ends_in_destroy() -> None:
    for view in reachable():
        assert visit(view, OFFLINE, F(CLOSING), F(CLOSED)).phase is Phase.GONE, view


@pytest.mark.parametrize("event", [Unplug(force=True), DomainGone(), BackendState(None)])
def test_force_a_dead_domain_and_a_removed_area_need_no_guest(event: Event) -> None:
    for view in reachable():
        assert visit(view, event).phase is Phase.GONE, view


# --- a world ---

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
            case xenbus.Publish() | Connect() | Disconnect():
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
        elif done == "Connect":
            self.planes = int(well)
            self.feed(PlaneStarted() if well else PlaneFailed("f"))
        elif done == "Disconnect":
            self.planes = 0
            self.feed(PlaneStopped())

    def trouble(self, lost: bool) -> None:
        if self.planes and self.under_way != "Disconnect":
            self.planes = int(not lost)
            self.feed(PlaneLost("l") if lost else PlaneBroken("b"))

    def settle(self) -> None:
        while self.dirty or self.under_way:
            self.handle("backend")
            self.handle("frontend")
            self.answer(True)


GUEST = st.sampled_from([None, *XenbusState])
MOVES: st.SearchStrategy[Callable[[World], None]] = st.one_of(
    GUEST.map(lambda state: lambda world: world.guest(state)),
    st.sampled_from(["frontend", "backend"]).map(lambda which: lambda world: world.handle(which)),
    st.booleans().map(lambda well: lambda world: world.answer(well)),
    st.booleans().map(lambda well: lambda world: world.answer(well)))
RARE: st.SearchStrategy[Callable[[World], None]] = st.one_of(
    st.sampled_from([CLOSING, CLOSED, None]).map(lambda state: lambda world: world.toolstack(state)),
    st.booleans().map(lambda lost: lambda world: world.trouble(lost)),
    st.booleans().map(lambda force: lambda world: world.feed(Unplug(force))),
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
@given(st.lists(MOVES, max_size=60), st.booleans(), st.lists(MOVES, max_size=20))
def test_whatever_a_guest_did_it_can_be_connected_again(before: list[Callable[[World], None]], lost: bool,
                                                        after: list[Callable[[World], None]]) -> None:
    world = World()
    for move in (*before, lambda world: world.trouble(lost), *after):
        move(world)
    world.settle()
    if world.view.phase is Phase.FAILED:
        world.backend = INITIALISING
        world.feed(Realize())
        world.settle()
    for state in (CLOSING, CLOSED, INITIALISING, INITIALISED, CONNECTED):
        world.guest(state)
        world.settle()
    assert (world.backend, world.view.plane, world.planes) == (CONNECTED, Plane.RUNNING, 1)


# --- for people ---

def test_the_table_prints_every_row_once() -> None:
    lines = xenbus.table().splitlines()
    assert len(lines) == 2 + len(machine.ROWS)
    assert all(line.count("|") == 8 for line in lines)
    assert "| Connected, InitWait | Closing | any | any | not gone | Closing |" in lines[2]
    assert len({row.why for row in machine.ROWS}) == len(machine.ROWS)


def test_the_documentation_prints_the_same_table() -> None:
    text = (Path(__file__).parent.parent / "docs/xenbus.md").read_text()
    assert xenbus.table() in text, "print xenbus.table() into docs/xenbus.md"


def test_every_row_is_needed() -> None:
    for row in machine.ROWS:
        assert any(_only(row, view, event) for view in reachable() for event in EVENTS), row.why


def _only(row: machine.Row, view: View, event: Event) -> bool:
    if view.phase is Phase.GONE:
        return False
    taken, _ = machine._take(view, event)
    return next((other for other in machine.ROWS if machine._fits(other, taken)), None) is row
