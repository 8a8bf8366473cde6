"""A vbd against a real store, with a frontend that does as it is told and a worker that is none."""
import errno
import os
import threading

import pytest

from tests.support.manager import BACKEND, FRONTEND, bench
from xenvbd import trace
from xenvbd.errors import Error, StoreError
from xenvbd.medium import Medium, Policy
from xenvbd.xenbus import XenbusState

INITIALISING, INITWAIT, CONNECTED, CLOSING, CLOSED = "1", "2", "4", "5", "6"


@pytest.fixture
def b():
    with bench() as made:
        yield made


def connected(b, device=None, **nodes):
    """A device with a running plane."""
    device = device or b.device()
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect(**nodes)
    b.until(lambda: b.node("state") == CONNECTED)
    return device


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    return path


# Realize

def test_a_disk_of_ours_is_published_with_both_areas(b):
    b.device().realize()
    b.until(lambda: b.node("state") == INITWAIT)
    assert b.node("sectors") == "2048" and b.node("state", FRONTEND) == INITIALISING


def test_an_area_that_a_toolstack_made_is_published(b, image):
    b.found(params=f"aio:{image}", mode="r").realize()
    b.until(lambda: b.node("state") == INITWAIT)
    assert b.node("sectors") == "2048" and b.node("info") == "4" and b.node("hotplug-status") == "connected"


def test_a_target_that_cannot_be_opened_is_reported_where_the_toolstack_looks(b):
    device = b.found(params="aio:/nonexistent/a.img")
    device.realize()
    b.until(lambda: device.failed)
    assert "/nonexistent/a.img" in b.node("hotplug-error") and b.node("hotplug-status") == "error"
    assert b.node("state") == INITIALISING


def test_a_wrong_node_of_the_toolstack_is_reported_by_name(b):
    device = b.found(mode="maybe")
    device.realize()
    b.until(lambda: device.failed)
    assert "mode" in b.node("error") and "maybe" in b.node("error")


def test_a_frontend_path_of_another_domain_is_refused(b, image):
    device = b.found(params=str(image), frontend="/local/domain/9/device/vbd/51712")
    device.realize()
    b.until(lambda: device.failed)
    assert "frontend" in b.node("error")


def test_a_failed_device_is_forgotten_when_its_area_goes(b):
    device = b.found()
    device.realize()
    b.until(lambda: device.failed)
    b.toolstack.rm(BACKEND)
    device.refresh()
    assert b.destroyed == [device] and b.node("state") is None


def test_a_disk_of_ours_that_fails_leaves_no_area(b):
    device = b.device("/nonexistent/a.img")
    device.realize()
    b.until(lambda: b.destroyed)
    assert b.node("state") is None and b.node("state", FRONTEND) is None
    assert device.error.errno == errno.ENOENT


def test_a_vdev_that_somebody_took_meanwhile_is_refused_and_his_area_is_left_alone(b):
    b.found()
    device = b.device()
    device.realize()
    b.until(lambda: b.destroyed)
    assert "taken" in str(device.error)
    assert b.node("error") is None and b.node("state") == INITIALISING


def test_an_area_removed_while_the_target_is_being_opened_stays_removed(b, image):
    device = b.found(params=str(image))
    device.realize()
    b.toolstack.rm(BACKEND)
    b.until(lambda: b.destroyed)
    b.settle()
    assert not b.toolstack.exists(BACKEND)


def test_an_area_taken_offline_while_the_target_is_being_opened_is_closed_and_never_offered(b, image):
    device = b.found(params=str(image))
    device.realize()
    _take_away(b)
    b.until(lambda: b.destroyed)
    assert b.node("state") == CLOSED and b.node("sectors") is None


def _take_away(b):
    """What libxl does to unplug a disk."""
    def write(tx):
        tx.write(f"{BACKEND}/online", b"0")
        tx.write(f"{BACKEND}/state", CLOSING)
    b.toolstack.transaction(write)


def test_a_target_that_hangs_fails_its_device_only_and_is_closed_when_it_comes_after_all(b, image, monkeypatch):
    release, surveyed = threading.Event(), Medium.survey
    monkeypatch.setattr(Medium, "survey", lambda *args: release.wait() and surveyed(*args))
    b.host.policy = Policy(open_seconds=0.1)
    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: device.failed)
    assert "no answer in 0.1 s" in b.node("hotplug-error")
    release.set()
    b.until(lambda: b.host.helpers.running == 0)


# Connect

def test_a_guest_that_connects_again_and_again_to_a_dead_storage_has_one_helper_thread(b, image, monkeypatch):
    """And others have theirs: 32 of its calls hung, and no disk of the host could be opened any more."""
    release = threading.Event()

    def hang(*args, **options):
        release.wait()
        raise OSError(errno.EIO, "it is dead")

    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.host.policy = Policy(open_seconds=0.02)
    monkeypatch.setattr(Medium, "open", hang)
    monkeypatch.setattr(Medium, "survey", hang)
    for _ in range(33):
        b.guest.connect()
        b.until(lambda: device.failed)
        b.guest.state(6)
        b.until(lambda: b.node("state") == CLOSED)
        b.guest.state(1)
        b.until(lambda: b.node("state") == INITWAIT)
    assert b.host.helpers.running == 1
    found = []
    b.host.helpers.run("opening", lambda: 42, found.append, seconds=5, dispose=found.append, path="/srv/a.img")
    b.until(lambda: found)
    release.set()
    b.until(lambda: b.host.helpers.running == 0)
    assert found == [42]


@pytest.mark.parametrize("state", [3, 4], ids=["Initialised", "Connected"])
def test_a_frontend_with_a_ring_is_connected(b, state):
    device = b.device()
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect(state)
    b.until(lambda: b.node("state") == CONNECTED)
    assert device.connected and b.worker.calls == ["connect"]
    assert sorted(os.listdir(b.runtime.path)) == [
        "qdisk-7-51712.json", "qdisk-7-51712.q0.journal", "qdisk-7-51712.q0.stats"]


def test_nodes_that_are_wrong_are_reported_and_the_next_try_works(b):
    device = b.device()
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect(ring_ref="none")
    b.until(lambda: device.failed)
    b.settle()
    assert "ring-ref" in b.node("error") and b.node("state") == INITWAIT and b.worker.calls == []
    b.guest.ring(ring_ref=8)
    b.guest.state(1)
    b.settle()
    b.guest.state(3)
    b.until(lambda: b.node("state") == CONNECTED)
    assert b.node("error") is None and b.node("hotplug-status") == "connected"


def test_a_plane_that_cannot_start_is_reported_and_the_next_try_works(b):
    b.worker.fail["connect"] = Error(errno.EINVAL, "ring-ref 8 cannot be mapped")
    device = b.device()
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: device.failed)
    b.until(lambda: b.node("error") is not None)
    assert "cannot be mapped" in b.node("error")
    b.worker.fail.clear()
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    b.guest.state(1)
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: b.node("state") == CONNECTED)


def test_of_what_the_worker_gets_nothing_is_kept_but_the_claim(b, image):
    """A second descriptor of the description that does I/O would keep its lock when the worker is dead."""
    connected(b, b.found(params=str(image)))
    held = [fd for fd in os.listdir("/proc/self/fd") if _link(fd) == str(image)]
    assert [int(fd) for fd in held] == list(b.host.images.leave().values())


def _link(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def test_an_image_whose_size_has_changed_is_not_served_as_what_it_was(b, image):
    device = connected(b, b.found(params=str(image)))
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    image.write_bytes(bytes(1 << 19))
    b.guest.state(1)
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: device.failed and b.node("error"))
    assert "524288" in b.node("error")


# Disconnect, and the next driver

def test_closing_and_closed_are_echoed_and_the_plane_is_stopped_before_closed(b):
    connected(b)
    b.worker.hold.add("disconnect")
    b.guest.state(5)
    b.until(lambda: b.node("state") == CLOSING)
    b.guest.state(6)
    b.until(lambda: b.worker.held)
    b.settle()
    assert b.node("state") == CLOSING, "Closed before the plane has stopped"
    b.worker.held.pop()()
    b.until(lambda: b.node("state") == CLOSED)


def test_the_next_kernel_is_connected_with_its_own_ring(b):
    connected(b)
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    b.guest.state(1)
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect(ring_ref=9)
    b.until(lambda: b.node("state") == CONNECTED)
    assert b.worker.calls == ["connect", "disconnect", "connect"]


def test_a_frontend_area_that_vanishes_stops_the_plane(b):
    connected(b)
    b.toolstack.rm(FRONTEND)
    b.until(lambda: not b.worker.planes)


# Unplug and unrealize

def test_detach_takes_the_polite_way_and_removes_both_areas_of_ours(b):
    device = connected(b)
    device.unplug(force=False)
    b.until(lambda: (b.node("online"), b.node("state")) == ("0", CLOSING))
    b.settle()
    assert b.worker.planes, "the guest has not closed yet"
    b.guest.state(6)
    b.until(lambda: b.destroyed)
    assert not b.toolstack.exists(BACKEND) and not b.toolstack.exists(FRONTEND)
    assert os.listdir(b.runtime.path) == []


def test_a_forced_detach_does_not_wait_for_the_guest(b):
    device = connected(b)
    device.unplug(force=True)
    b.until(lambda: b.destroyed)
    assert not b.worker.planes and not b.toolstack.exists(BACKEND)


def test_a_toolstack_s_detach_ends_with_closed_and_leaves_the_removal_to_it(b, image):
    device = connected(b, b.found(params=str(image)))
    b.toolstack.write(f"{BACKEND}/online", "0")
    b.toolstack.write(f"{BACKEND}/state", CLOSING)
    device.refresh()
    b.guest.state(6)
    b.until(lambda: b.destroyed)
    assert b.node("state") == CLOSED


def test_an_unplug_that_meets_the_connection_is_not_overwritten_by_connected(b, image):
    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.worker.hold.add("connect")
    b.guest.connect()
    b.until(lambda: b.worker.held)
    _take_away(b)
    b.worker.held.pop()()
    assert b.node("state") == CLOSING
    b.guest.state(XenbusState.CLOSED)
    b.until(lambda: b.destroyed)
    assert b.node("state") == CLOSED and not b.worker.planes


def test_detaching_twice_is_detaching_once(b):
    device = connected(b)
    device.unplug(force=True)
    device.unplug(force=True)
    b.until(lambda: b.destroyed)
    device.unplug(force=True)
    assert b.destroyed == [device] and b.worker.calls == ["connect", "disconnect"]


def test_an_area_removed_under_a_running_plane_stops_it_and_stays_removed(b, image):
    device = connected(b, b.found(params=str(image)))
    b.toolstack.rm(BACKEND)
    device.refresh()
    b.until(lambda: b.destroyed)
    assert not b.worker.planes and not b.toolstack.exists(BACKEND)


def test_a_domain_that_is_gone_takes_its_disk_along(b):
    device = connected(b)
    b.sim.remove_domain(7)
    device.domain_gone()
    b.until(lambda: b.destroyed)
    assert not b.toolstack.exists(BACKEND) and not b.toolstack.exists(FRONTEND)


# The worker

def test_what_a_data_plane_tells_can_be_traced(b, caplog):
    trace.enable(["xen_block_plane_*"])
    with caplog.at_level("INFO", trace.logger.name):
        connected(b).worker_event("no-space", "queue 0")
    trace.enable([])
    assert "xen_block_plane_event disk=web1:xvda kind=no-space detail='queue 0'" in caplog.text


def test_a_worker_s_death_with_a_disk_in_its_memory_leaves_the_guest_connected_and_is_reported(b):
    device = connected(b)
    device.worker_lost(b.worker)
    assert b.node("state") == CONNECTED and "died" in b.node("error") and device.failed
    assert os.path.exists(b.runtime.journal(device.key, 0)), "the journal is for the one who adopts"


def test_after_a_worker_s_death_the_guest_can_connect_again(b):
    device = connected(b)
    device.worker_lost(b.worker)
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    b.guest.state(1)
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: b.node("state") == CONNECTED)
    assert b.node("error") is None


def test_a_worker_that_dies_while_it_drains_has_drained(b):
    connected(b)
    b.worker.fail["disconnect"] = Error(errno.EPIPE, "the worker is gone")
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)


def test_a_worker_that_cannot_be_told_to_let_go_is_told_again(b, monkeypatch):
    """Else it would keep ring and image of a disk that is gone."""
    monkeypatch.setattr("xenvbd.connection.DISCONNECT_SECONDS", 0.02)
    device = connected(b)
    b.worker.fail["disconnect"] = Error(errno.ENOBUFS, "no buffer space available")
    device.unplug(force=True)
    b.until(lambda: b.worker.calls.count("disconnect") > 2)
    assert not b.destroyed and not device.gone
    del b.worker.fail["disconnect"]
    b.until(lambda: b.destroyed)
    assert not b.worker.planes


def test_a_quarantined_ring_is_reported(b):
    device = connected(b)
    device.worker_event("quarantined", "queue 0")
    assert "broke its ring" in b.node("error") and device.failed


# The store

def test_what_happens_while_the_store_is_away_is_written_when_it_is_back(b):
    device = connected(b)
    b.sim.drop_connections(0)
    b.until(lambda: not b.store.connected)
    device.worker_lost(b.worker)
    b.store.reconnect()
    device.run()
    b.toolstack.reconnect()
    assert "died" in b.node("error")


def test_a_store_lost_while_the_target_is_being_opened_does_not_fail_the_device(b, image):
    device = b.found(params=str(image))
    device.realize()
    b.sim.drop_connections(0)
    b.until(lambda: device.holding.identity is not None)
    b.settle()
    b.store.reconnect()
    device.run()
    b.toolstack.reconnect()
    b.until(lambda: b.node("state") == INITWAIT)


def test_an_older_state_of_our_own_is_not_taken_for_a_toolstack_s(b, monkeypatch):
    """While InitWait waits to be written, the store still says Closed."""
    device = connected(b)
    b.guest.state(XenbusState.CLOSED)
    b.until(lambda: b.node("state") == CLOSED)
    write = device.areas.set_state
    busy = [StoreError(errno.EAGAIN, "the transaction lost")]
    monkeypatch.setattr(device.areas, "set_state", lambda state: write(state) if not busy else _raise(busy.pop()))
    b.guest.connect()
    device.refresh()
    device.refresh()
    b.until(lambda: b.node("state") == CONNECTED)


def _raise(error):
    raise error


@pytest.mark.parametrize("value", ["0", "7", "99", "four", "\xff"])
def test_a_frontend_state_that_is_none_is_ignored(b, value):
    device = connected(b)
    b.guest.store.write(f"{FRONTEND}/state", value)
    b.settle()
    assert device.connected and device.view.frontend is XenbusState.INITIALISED


# A later manager

def test_a_later_manager_takes_a_served_disk_over_and_can_detach_it(b):
    device = connected(b)
    device.close()
    later = b.device()
    later.properties = None
    from xenvbd.record import Record
    [(key, fields)] = b.runtime.records()
    later.adopt(Record.from_json(fields), serving=True)
    b.until(lambda: later.connected)
    assert key == later.key and later.agreement == device.agreement
    later.unplug(force=True)
    b.until(lambda: b.destroyed)
    assert not b.worker.planes and not b.toolstack.exists(BACKEND)


def test_what_a_guest_goes_on_doing_while_the_store_takes_nothing_is_not_piled_up(b, monkeypatch):
    def refuse(*arguments):
        raise StoreError(errno.ENOSPC, "over quota")

    device = b.device()
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    monkeypatch.setattr(device.areas, "set_state", refuse)
    for _ in range(50):
        for state in 5, 6, 1:
            b.guest.state(state)
            device.refresh()
    assert len(device._todo) < 50
    monkeypatch.undo()
    b.guest.connect()
    b.until(lambda: b.node("state") == CONNECTED)
