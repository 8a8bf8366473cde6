"""Every view that can be reached, with every event: what never happens, and that there is always a way on."""
from pathlib import Path

import pytest

from tests.xenbus.views import EVENTS, OFFLINE, STARTED, STOPPED, F, edges, reachable, sensible
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
    ClearError,
    Connect,
    Destroy,
    Disconnect,
    DomainGone,
    Event,
    FrontendState,
    Phase,
    Plane,
    PlaneDied,
    PlaneFailed,
    PlaneLost,
    PlaneStarted,
    PlaneStopped,
    Published,
    PublishFailed,
    Realize,
    ReportError,
    SetState,
    TakeOffline,
    Unplug,
    View,
    XenbusState,
    machine,
)


def test_the_views_are_few_enough_to_visit_all() -> None:
    assert 500 < len(reachable()) < 20000


def test_the_states_that_are_not_visited_change_nothing_or_are_as_others() -> None:
    for view in reachable():
        for state in (XenbusState.UNKNOWN, XenbusState.RECONFIGURING, XenbusState.RECONFIGURED):
            assert machine._frontend(view, state) == view
        assert machine._frontend(view, INITWAIT) == machine._frontend(view, INITIALISING)
        for state in set(XenbusState) - {INITIALISING, CONNECTED, CLOSING, CLOSED}:
            assert machine._backend(view, state, True) == machine._backend(view, CONNECTED, True)


def test_a_device_that_is_closed_has_no_plane() -> None:
    for view in reachable():
        assert view.backend is not CLOSED or view.plane is Plane.NONE


def test_there_is_never_a_second_plane_and_never_closed_while_one_is_left() -> None:
    for view, event, after, actions in edges():
        plane = view.plane
        if isinstance(event, PlaneStarted | PlaneFailed | PlaneLost | PlaneStopped) and sensible(view, event):
            plane = Plane.RUNNING if isinstance(event, PlaneStarted) else Plane.NONE
        if plane is Plane.DIED or (isinstance(event, PlaneDied) and sensible(view, event)):
            plane = Plane.DIED if after.plane is Plane.DIED or Adopt() in actions else Plane.NONE
        for action in actions:
            if isinstance(action, Connect):
                assert plane is Plane.NONE, (view, event)
                plane = Plane.STARTING
            elif isinstance(action, Adopt):
                assert plane is Plane.DIED, (view, event)
                plane = Plane.ADOPTING
            elif isinstance(action, Disconnect):
                assert plane in (Plane.RUNNING, Plane.ADOPTING), (view, event)
                plane = Plane.STOPPING
            elif action in (Destroy(), SetState(CLOSED), SetState(INITWAIT)):
                assert plane is Plane.NONE, (view, event)
            elif action == SetState(CONNECTED):
                assert plane is Plane.RUNNING, (view, event)
        assert plane is after.plane, (view, event)


def test_a_plane_that_is_taken_over_while_its_frontend_is_connected_writes_nothing() -> None:
    for view, event, after, actions in edges():
        if view.backend is CONNECTED and not view.owed and sensible(view, event) and (
                (isinstance(event, PlaneDied) and after.plane is Plane.ADOPTING)
                or (event == PlaneStarted() and after.plane is Plane.RUNNING)):
            assert not [action for action in actions if not isinstance(action, Adopt)], (view, event)


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
    for _ in range(10):
        answer = {Plane.STARTING: STARTED, Plane.ADOPTING: STARTED, Plane.STOPPING: STOPPED}.get(view.plane)
        if answer is None and view.phase is not Phase.PUBLISHING:
            return view
        view, _ = xenbus.step(view, answer or Published())
    raise AssertionError(f"it never settles: {view}")


def visit(view: View, *events: Event) -> View:
    for event in events:
        view = answered(xenbus.step(answered(view), event)[0])
    return view


def test_a_well_behaved_guest_always_gets_back_to_connected() -> None:
    for view in reachable():
        if view.online and not (view.forced or view.gone or view.phase is Phase.GONE):
            anew = [BackendState(INITIALISING, True), Realize()] if view.phase in (Phase.NEW, Phase.FAILED) else []
            guest = map(F, (CLOSING, CLOSED, INITIALISING, INITIALISED, CONNECTED))
            after = visit(view, *anew, *guest)
            assert (after.backend, after.plane) == (CONNECTED, Plane.RUNNING), view
            assert not (after.broken or after.error or after.failed or after.stale)


def test_offline_and_closed_always_ends_in_destroy() -> None:
    for view in reachable():
        assert visit(view, OFFLINE, F(CLOSING), F(CLOSED)).phase is Phase.GONE, view


@pytest.mark.parametrize("event", [Unplug(force=True), DomainGone(), BackendState(None)])
def test_force_a_dead_domain_and_a_removed_area_need_no_guest(event: Event) -> None:
    for view in reachable():
        assert visit(view, event).phase is Phase.GONE, view




# --- for people ---

def test_the_table_prints_every_row_once() -> None:
    lines = xenbus.table().splitlines()
    assert len(lines) == 2 + len(machine.ROWS)
    assert all(line.count("|") == 8 for line in lines)
    assert "| Connected, InitWait | Closing | any | any | not gone | Closing |" in lines[2]
    assert len({row.why for row in machine.ROWS}) == len(machine.ROWS)


def test_the_documentation_prints_the_same_table() -> None:
    text = (Path(__file__).parents[2] / "docs/xenbus.md").read_text()
    assert xenbus.table() in text, "print xenbus.table() into docs/xenbus.md"


def test_every_row_is_needed() -> None:
    for row in machine.ROWS:
        assert any(_only(row, view, event) for view in reachable() for event in EVENTS), row.why


def _only(row: machine.Row, view: View, event: Event) -> bool:
    if view.phase is Phase.GONE:
        return False
    taken, _ = machine._take(view, event)
    return next((other for other in machine.ROWS if machine._fits(other, taken)), None) is row
