"""Rings that changed while nobody looked, or between two looks; and connections that are tried again."""
from tests.xenbus.views import BROKEN, FAILED, SERVING, STARTED, STARTING, STOPPED, WAITING, F, play
from xenvbd import xenbus
from xenvbd.xenbus import (
    CLOSED,
    CLOSING,
    CONNECTED,
    INITIALISED,
    INITIALISING,
    PlaneDied,
    PlaneFailed,
    PlaneStarted,
    RingChanged,
    TryAgain,
)


def test_a_ring_that_changed_while_the_state_stayed_is_connected_anew() -> None:
    assert play(SERVING, RingChanged(), STOPPED, STARTED) == (SERVING, "Disconnect Connect Connected")
    assert play(BROKEN, RingChanged(), STOPPED, STARTED) == (SERVING, "Disconnect Connect ClearError Connected")


def test_a_ring_that_changed_while_it_was_being_taken_over_is_connected_anew() -> None:
    assert play(SERVING, PlaneDied("d"), RingChanged(), STOPPED, STARTED) == (
        SERVING, "Adopt Disconnect Connect Connected")


def test_a_ring_that_changed_while_its_plane_was_starting_is_started_once_more() -> None:
    assert play(STARTING, RingChanged(), STARTED, STOPPED)[1] == "Disconnect Connect"
    assert play(STARTING, RingChanged(), PlaneFailed("no such grant"))[1] == "Connect"


def test_a_ring_that_could_not_be_taken_over_is_followed_by_the_next() -> None:
    view, words = play(SERVING, PlaneDied("d"), PlaneFailed("it cannot be mapped"))
    assert (view.broken, words) == (True, "Adopt ReportError")
    assert play(view, F(CONNECTED))[1] == ""
    assert play(view, RingChanged(), STARTED) == (SERVING, "Connect ClearError Connected")


def test_a_ring_changes_without_consequence_when_the_frontend_has_none() -> None:
    for state in (CLOSING, CLOSED, INITIALISING):
        view, _ = play(SERVING, F(state))
        assert play(view, RingChanged()) == (view, "")


def test_a_vbd_whose_frontend_has_another_ring_than_the_worker_that_lived_on_is_connected_anew() -> None:
    view = xenbus.adopted(CONNECTED, CONNECTED, True, serving=True, stale=True)
    assert play(view, STARTED, STOPPED, STARTED) == (SERVING, "Disconnect Connect Connected")


def test_a_frontend_that_is_initialised_while_we_are_connected_may_have_resumed_unseen() -> None:
    view = xenbus.adopted(CONNECTED, INITIALISED, True, serving=True)
    assert play(view, STARTED, STOPPED, STARTED)[1] == "Disconnect Connect Connected"


def test_a_ring_that_turns_out_to_be_begun_anew_is_told_connected_once_more() -> None:
    assert play(SERVING, PlaneDied("d"), PlaneStarted(anew=True)) == (SERVING, "Adopt Connected")


# What can succeed later

def test_a_connection_that_failed_is_tried_again_as_long_as_the_frontend_waits() -> None:
    failed, _ = play(STARTING, PlaneFailed("locked"))
    assert play(failed, F(INITIALISED))[1] == ""
    assert play(failed, TryAgain(), PlaneFailed("locked"), TryAgain(), STARTED)[1] == \
        "Connect ReportError Connect ClearError Connected"
    gone, _ = play(failed, F(CLOSING), F(CLOSED))
    assert play(gone, TryAgain())[1] == ""


def test_trying_again_changes_nothing_where_nothing_failed() -> None:
    for view in (WAITING, STARTING, SERVING, BROKEN, FAILED):
        assert play(view, TryAgain()) == (view, "")
