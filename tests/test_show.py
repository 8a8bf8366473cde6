"""What list and show say of a device, in each of its situations."""
import pytest

from tests.support.manager import BACKEND, bench
from xenvbd.show import show, waiting_for
from xenvbd.stats import Snapshot


@pytest.fixture
def b():
    with bench() as made:
        yield made


def published(b, **properties):
    device = b.device(**properties)
    device.realize()
    b.until(lambda: b.node("state") == "2")
    return device


def connected(b):
    device = published(b)
    b.guest.connect()
    b.until(lambda: device.connected)
    return device


def test_a_connected_disk_tells_what_was_agreed_and_has_no_note(b):
    shown = show(connected(b), 4711)
    assert shown["disk"] == "web1:xvda" and shown["domain"] == "web1" and shown["name"] == "xvda"
    assert shown["state"] == {"backend": "Connected", "frontend": "Initialised"}
    assert (shown["protocol"], shown["queues"], shown["event-channels"]) == ("x86_64-abi", 1, [3])
    assert (shown["size"], shown["mode"], shown["target"], shown["pid"]) == (1 << 20, "rw", "mem:1M", 4711)
    assert shown["note"] == "" and shown["inflight"] == 0 and shown["stats"]["read"]["ops"] == 0


def keys(value):
    """The keys of a JSON value, and of the objects in it."""
    return {name: keys(each) for name, each in value.items()} if isinstance(value, dict) else None


def test_no_key_is_ever_missing(b):
    whole = show(connected(b))
    new = show(b.found())
    assert keys(new) == keys(whole)
    assert (new["target"], new["size"], new["features"]["discard"], new["stats"]["read"]["p50-us"]) == (None,) * 4


def test_a_read_only_cdrom_says_so(b):
    shown = show(published(b, device_type="cdrom"))
    assert shown["mode"] == "ro" and shown["device-type"] == "cdrom" and shown["features"]["discard"] is False


@pytest.mark.parametrize("told, engine, persistent", [
    ({"engine": "threads", "persistent": True}, "threads", True),
    ({"engine": "threads", "persistent": False}, "threads", False),
    ({"engine": ["x"], "persistent": "yes"}, "auto", False),
    ({}, "auto", True)], ids=["kept", "copied", "nonsense", "of 0.1"])
def test_what_is_shown_is_what_the_worker_does(b, told, engine, persistent):
    device = published(b, persistent=True)
    b.worker.answer = told
    b.guest.connect(feature_persistent=1)
    b.until(lambda: device.connected)
    assert (show(device)["engine"], show(device)["features"]["persistent"]) == (engine, persistent)


def test_what_an_earlier_managers_worker_does_is_shown_too(b):
    device = published(b, persistent=True)
    b.guest.connect(feature_persistent=1)
    b.until(lambda: device.connected)
    b.worker.told = {device.key: {"engine": "threads", "persistent": False}}
    later = b.found()
    device.close()
    later.adopt(device._record(), serving=True)
    assert (show(later)["engine"], show(later)["features"]["persistent"]) == ("threads", False)


def test_a_disk_that_waits_for_its_guest_says_which_node_to_look_at(b):
    device = published(b)
    assert show(device)["note"] == "waiting for the guest"
    assert waiting_for(device) == ("the guest has not answered InitWait: "
                                   "/local/domain/7/device/vbd/51712/state is Initialising")


def test_a_disk_that_is_being_detached_says_so(b):
    device = connected(b)
    device.unplug(force=False)
    assert show(device)["note"] == "waiting for the guest to close"


def test_a_disk_that_drains_says_how_much(b):
    device = connected(b)
    b.worker.hold.add("disconnect")
    device.unplug(force=True)
    assert show(device)["note"] == "draining 0" and "0 requests are still" in waiting_for(device)
    b.worker.held.pop()()


def test_a_target_that_is_being_opened_says_so(b):
    device = b.device()
    device.realize()
    assert show(device)["note"] == "opening the target" and "mem:1M is still being opened" in waiting_for(device)


def test_a_failed_disk_says_why(b):
    device = b.found()
    device.realize()
    b.until(lambda: device.failed)
    assert "/nonexistent" in show(device)["note"] and "/nonexistent" in waiting_for(device)
    assert show(device)["target"] == "/nonexistent"
    b.toolstack.rm(BACKEND)


def test_a_disk_whose_worker_died_says_so_also_after_a_restart_of_the_manager(b):
    device = connected(b)
    device.worker_lost(b.worker)
    assert "died" in show(device)["note"]
    device.error = None
    assert show(device)["note"].startswith("not served")


@pytest.mark.parametrize("stopped, words", [(1, "no space"), (2, "a flush failed"), (3, "an I/O error")])
def test_a_disk_that_holds_its_requests_says_why(b, monkeypatch, stopped, words):
    device = connected(b)
    zero = Snapshot.zero()
    held = Snapshot(zero.counters | {"stopped": stopped, "inflight": 3}, zero.ops)
    monkeypatch.setattr(type(device), "counters", lambda self: held)
    assert words in show(device)["note"] and show(device)["inflight"] == 3
