"""A vbd whose guest has another ring than the manager thinks, and connections that can succeed later."""
import errno
import os
import threading

import pytest

from tests.support.manager import bench
from xenvbd import xenbus
from xenvbd.errors import ClaimError, Error, HypervisorError, ProtocolError
from xenvbd.medium import Medium, Policy
from xenvbd.xenbus import Plane

INITIALISING, INITWAIT, CONNECTED, CLOSING, CLOSED = "1", "2", "4", "5", "6"


@pytest.fixture
def b():
    with bench() as made:
        yield made


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("xenvbd.connection.CONNECT_SECONDS", 0.02)
    monkeypatch.setattr("xenvbd.adoption.RETRY_SECONDS", 0.02)


def connected(b, device):
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: b.node("state") == CONNECTED)
    b.guest.state(4)
    b.settle()
    return device


def refs(b):
    """The ring that a worker was asked for last."""
    return b.worker.params["agreement"]["queues"][0]["ring_refs"]


@pytest.mark.parametrize("states", [(4,), (3, 4), (3,)])
def test_a_guest_that_resumes_with_another_ring_is_connected_to_it_however_it_writes_its_states(b, states, caplog):
    connected(b, b.device())
    b.guest.ring(ring_ref=9)
    for state in states:
        b.guest.state(state)
    b.until(lambda: b.worker.calls == ["connect", "disconnect", "connect"])
    assert list(refs(b)) == [9]
    b.until(lambda: b.node("state") == CONNECTED)


def test_nodes_that_are_written_while_the_ring_is_served_change_nothing_before_they_are_a_ring(b):
    connected(b, b.device())
    b.guest.ring(ring_ref="none")
    b.guest.state(4)
    b.settle()
    assert b.worker.calls == ["connect"]


def test_looking_again_and_again_at_the_same_ring_changes_nothing(b):
    device = connected(b, b.device())
    for _ in range(5):
        device.refresh()
    b.settle()
    assert b.worker.calls == ["connect"] and device.connected


@pytest.mark.parametrize("state", [3, 4])
def test_a_guest_that_moved_to_another_ring_while_no_manager_lived_is_connected_to_it(b, image, state, caplog):
    """Its worker lives and serves the old one."""
    device = connected(b, b.found(params=str(image)))
    record = device._record()
    device.close()
    b.devices.remove(device)
    b.guest.ring(ring_ref=9, event_channel=5)
    b.guest.state(state)
    later = b._device(None)
    later.adopt(record, serving=True)
    b.until(lambda: b.worker.calls == ["connect", "disconnect", "connect"])
    b.until(lambda: later.connected)
    assert list(refs(b)) == [9] and "has another ring" in caplog.text


def test_a_guest_that_moved_while_neither_manager_nor_worker_lived_is_connected_to_it(b, image, caplog):
    device = connected(b, b.found(params=str(image)))
    record = device._record()
    device.close()
    b.devices.remove(device)
    b.guest.ring(ring_ref=9)
    later = b._device(None)
    later.adopt(record, serving=False)
    b.until(lambda: later.connected)
    assert b.worker.calls == ["connect", "connect"] and list(refs(b)) == [9] and "has another ring" in caplog.text


def test_a_ring_that_changes_while_its_worker_is_dead_is_connected_and_not_taken_over(b, image, quick):
    device = connected(b, b.found(params=str(image)))
    b.worker.fail["connect"] = HypervisorError(errno.EINVAL, "map 1 grants of domain 7: Invalid argument")
    device.worker_lost(b.worker)
    b.until(lambda: b.worker.calls.count("connect") > 3)
    b.guest.ring(ring_ref=9)            # and no state: it is found by looking
    b.until(lambda: list(refs(b)) == [9] and device.view.failed)
    b.worker.fail.clear()
    b.guest.state(3)
    b.until(lambda: device.connected)


def test_a_ring_that_the_guest_has_let_go_of_is_given_up_with_the_reason_and_followed_by_the_next(b, image, quick):
    device = connected(b, b.found(params=str(image)))
    b.worker.fail["connect"] = HypervisorError(errno.EINVAL, "map 1 grants of domain 7: Invalid argument")
    device.worker_lost(b.worker)
    b.until(lambda: device.view.broken)
    assert b.worker.calls.count("connect") == 11 and "the guest has let go of its ring" in b.node("error")
    assert os.path.exists(b.runtime.journal(device.key, 0))
    b.worker.fail.clear()
    b.guest.ring(ring_ref=9)
    b.guest.state(4)
    b.until(lambda: device.connected)
    assert b.node("error") is None


def test_what_there_is_no_memory_for_is_tried_for_ever(b, image, quick):
    device = connected(b, b.found(params=str(image)))
    b.worker.fail["connect"] = HypervisorError(errno.ENOMEM, "map 1 grants of domain 7: Cannot allocate memory")
    device.worker_lost(b.worker)
    b.until(lambda: b.worker.calls.count("connect") > 15)
    b.worker.fail.clear()
    b.until(lambda: device.connected)


def test_a_disk_that_is_held_says_why_and_keeps_its_journal(b, image):
    device = connected(b, b.found(params=str(image)))
    b.worker.fail["connect"] = ProtocolError(errno.ESTALE, "nothing proves that the guest's ring is still the one")
    device.worker_lost(b.worker)
    b.until(lambda: device.view.broken)
    assert "nothing proves" in b.node("error") and os.path.exists(b.runtime.journal(device.key, 0))
    assert b.worker.calls == ["connect", "connect"]


def test_a_ring_that_was_begun_anew_is_said_to_be_and_its_guest_is_told_connected(b, image, caplog, monkeypatch):
    device = connected(b, b.found(params=str(image)))
    b.worker.answer = {"engine": "uring", "anew": [0]}
    written, write = [], device.areas.set_state
    monkeypatch.setattr(device.areas, "set_state", lambda state: (written.append(state), write(state)))
    device.worker_lost(b.worker)
    b.until(lambda: written)
    assert written == [xenbus.CONNECTED] and device.connected and "had begun its ring anew" in caplog.text


# What can succeed later

def failing(monkeypatch, errors):
    """Let opening fail with these, one after the other, and then succeed."""
    opened = Medium.open

    def open_(*args, **options):
        if errors:
            raise errors.pop(0)
        return opened(*args, **options)

    monkeypatch.setattr(Medium, "open", open_)


def waiting(b, image):
    """A published disk, whose target has been given away to a connection that ended."""
    device = connected(b, b.found(params=str(image)))
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    b.guest.state(1)
    b.until(lambda: b.node("state") == INITWAIT)
    return device


@pytest.mark.parametrize("error", [
    ClaimError(errno.EBUSY, "locked"), Error(errno.EMFILE, "too many open files"),
    Error(errno.ENOENT, "no such file")], ids=str)
def test_a_connection_that_fails_is_tried_again_without_the_guest_doing_anything(b, image, quick, monkeypatch, error):
    device = waiting(b, image)
    failing(monkeypatch, [error] * 3)
    b.guest.connect()
    b.until(lambda: device.failed)
    b.until(lambda: device.connected)
    assert b.node("error") is None


def test_nothing_is_tried_again_for_a_guest_that_waits_no_more(b, image, quick, monkeypatch):
    device = waiting(b, image)
    errors = [ClaimError(errno.EBUSY, "locked")] * 1000
    failing(monkeypatch, errors)
    b.guest.connect()
    b.until(lambda: len(errors) < 998)
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    left = len(errors)
    b.settle()
    assert len(errors) == left and device.view.plane is Plane.NONE


def test_a_ring_that_is_wrong_is_not_tried_again_by_itself(b, image, quick):
    device = waiting(b, image)
    b.worker.fail["connect"] = HypervisorError(errno.EINVAL, "map 1 grants of domain 7: Invalid argument")
    b.guest.connect()
    b.until(lambda: device.failed)
    b.settle()
    assert b.worker.calls.count("connect") == 2


def test_one_that_hangs_is_waited_for_before_another_is_begun(b, image, quick, monkeypatch):
    device = waiting(b, image)
    release, opened, begun = threading.Event(), Medium.open, []

    def open_(*args, **options):
        begun.append(1)
        release.wait()
        return opened(*args, **options)

    monkeypatch.setattr(Medium, "open", open_)
    b.host.policy = Policy(open_seconds=0.05)
    b.guest.connect()
    b.until(lambda: device.failed)
    b.settle()
    assert begun == [1]
    b.host.policy = Policy(open_seconds=5)
    release.set()
    b.until(lambda: device.connected)
