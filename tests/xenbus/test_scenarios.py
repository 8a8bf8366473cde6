"""What guests and toolstacks do, one after the other, and what the device does about it."""
from dataclasses import replace

import pytest

from tests.xenbus.views import BROKEN, EVENTS, FAILED, OFFLINE, SERVING, STARTED, STARTING, STOPPED, WAITING, F, play
from xenvbd import xenbus
from xenvbd.xenbus import (
    CLOSED,
    CLOSING,
    CONNECTED,
    INITIALISED,
    INITIALISING,
    INITWAIT,
    BackendState,
    Destroy,
    DomainGone,
    Event,
    Phase,
    Plane,
    PlaneBroken,
    PlaneDied,
    PlaneFailed,
    PlaneLost,
    Published,
    PublishFailed,
    Realize,
    RemoveAreas,
    TakeOffline,
    Unplug,
    View,
    XenbusState,
)

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


def test_a_device_that_a_toolstack_closed_is_published_again_only_from_initialising() -> None:
    closed, words = play(FAILED, BackendState(CLOSING, online=True), Realize())
    assert (closed.backend, words) == (CLOSED, "Closed")
    assert play(closed, BackendState(INITIALISING, online=True), Realize())[1] == "Publish"


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


def test_each_step_of_windows_dance_is_answered_before_the_next() -> None:
    view = WAITING
    for state, answer in ((CLOSING, "Closing"), (CLOSED, "Closed"), (INITIALISING, "InitWait")):
        view, words = play(view, F(state))
        assert words == answer


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


def test_a_resumed_frontend_whose_new_ring_fails_is_not_tried_again_and_again() -> None:
    view, words = play(SERVING, F(INITIALISED), STOPPED, PlaneFailed("no such grant"))
    assert (view.plane, words) == (Plane.NONE, "Disconnect Connect ReportError")
    assert play(view, F(CONNECTED), STARTED)[1] == "Connect ClearError Connected"


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


def test_a_worker_that_died_is_followed_by_another_and_the_guest_sees_nothing() -> None:
    view, words = play(SERVING, PlaneDied("killed"))
    assert (view.plane, words) == (Plane.ADOPTING, "Adopt")
    assert play(view, STARTED) == (SERVING, "")
    assert play(view, PlaneDied("killed too"), PlaneDied("and again"), STARTED) == (SERVING, "Adopt Adopt")


def test_a_worker_that_died_before_connected_was_written_owes_it_to_the_next() -> None:
    assert play(STARTING, PlaneDied("killed"), STARTED) == (replace(SERVING, frontend=INITIALISED), "Adopt Connected")


def test_a_ring_that_cannot_be_taken_over_is_left_to_its_frontend() -> None:
    view, words = play(SERVING, PlaneDied("killed"), PlaneFailed("the journal is another's"))
    assert (view.backend, view.plane, words) == (CONNECTED, Plane.NONE, "Adopt ReportError")
    assert play(view, F(CLOSED), F(INITIALISING), F(INITIALISED))[1] == "Closing Closed ClearError InitWait Connect"


@pytest.mark.parametrize("event, words", [
    (F(CLOSED), "Closing Disconnect Closed"), (Unplug(force=True), "TakeOffline Disconnect"),
    (F(INITIALISED), "Disconnect Connect")])
def test_an_adoption_that_nobody_wants_any_more_is_ended(event: Event, words: str) -> None:
    view, _ = play(SERVING, PlaneDied("killed"))
    assert play(view, event, STARTED, STOPPED)[1].startswith(words)


@pytest.mark.parametrize("event", [F(CLOSED), F(None), DomainGone(), BackendState(None)])
def test_what_died_with_its_ring_is_not_taken_over(event: Event) -> None:
    """It died while the frontend left, and both are seen at once."""
    view, _ = play(replace(SERVING, plane=Plane.DIED), event)
    assert view.plane is Plane.NONE


def test_a_worker_that_died_in_a_broken_ring_is_not_followed() -> None:
    assert play(BROKEN, PlaneDied("killed")) == (replace(BROKEN, plane=Plane.NONE), "")


def test_a_lost_worker_leaves_the_guest_connected_until_it_closes() -> None:
    view, words = play(SERVING, PlaneLost("killed"))
    assert (view.backend, view.plane, words) == (CONNECTED, Plane.NONE, "ReportError")
    assert play(view, F(CLOSING), F(CLOSED), F(INITIALISING))[1] == "Closing Closed ClearError InitWait"
    assert play(view, F(INITIALISING))[1] == "Closing Closed ClearError InitWait"


def test_a_lost_worker_is_not_replaced_while_the_toolstack_closes() -> None:
    view, words = play(SERVING, BackendState(CLOSING, online=True), PlaneLost("killed"))
    assert (view.plane, words) == (Plane.NONE, "ReportError")
    assert play(view, F(CLOSED), F(INITIALISING), F(INITIALISED))[1] == "Closed ClearError InitWait Connect"


def test_a_ring_that_was_broken_before_its_plane_had_started_is_not_tried_again() -> None:
    view, words = play(STARTING, PlaneBroken("overrun"), PlaneFailed("overrun"), F(CONNECTED))
    assert (view.plane, words) == (Plane.NONE, "ReportError ReportError")
    assert play(view, F(CLOSED), F(INITIALISING), F(INITIALISED))[1] == "Closed ClearError InitWait Connect"


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


def test_a_guest_whose_connection_failed_is_waited_for_as_well() -> None:
    for closing in (OFFLINE, BackendState(CLOSING, online=True)):
        view, words = play(STARTING, PlaneFailed("no such grant"), closing)
        assert (view.backend, words) == (CLOSING, "ReportError")
    view, _ = play(STARTING, PlaneFailed("no such grant"), OFFLINE)
    assert play(view, F(CLOSING))[1] == ""
    assert play(view, F(CLOSING), F(CLOSED))[1] == "Closed RemoveAreas Destroy"


def test_an_unplug_goes_on_after_the_manager_and_the_worker_died() -> None:
    view = xenbus.adopted(CLOSING, CONNECTED, False, serving=False)
    assert play(view, F(CONNECTED))[1] == ""
    assert play(view, F(CLOSED))[1] == "Closed RemoveAreas Destroy"


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


def test_a_vbd_whose_worker_died_too_is_taken_over_by_another() -> None:
    view = xenbus.adopted(CONNECTED, CONNECTED, True, serving=False, died=True)
    assert play(view, F(CONNECTED), STARTED) == (SERVING, "Adopt")
    view = xenbus.adopted(INITWAIT, INITIALISED, True, serving=False, died=True)
    assert play(view, F(INITIALISED), STARTED)[1] == "Adopt Connected"


def test_a_vbd_whose_frontend_has_another_ring_meanwhile_is_connected_anew() -> None:
    view = xenbus.adopted(CONNECTED, CONNECTED, True, serving=False, died=True, stale=True)
    assert play(view, F(CONNECTED), STARTED)[1] == "Connect Connected"


def test_a_vbd_without_a_journal_waits_for_its_frontend() -> None:
    view = xenbus.adopted(CONNECTED, CONNECTED, True, serving=False)
    assert play(view, F(CONNECTED))[1] == ""
    assert play(view, F(CLOSING), F(CLOSED), F(INITIALISING), F(INITIALISED))[1] == "Closing Closed InitWait Connect"
