"""The verbs of the control socket: what they take, what they refuse, when they reply."""
import subprocess

import pytest

from tests.support.manager import bench
from tests.test_backend import backend
from xenvbd.config import DiskOptions
from xenvbd.device import Device
from xenvbd.errors import ClaimError, NoSuchDisk, PropertyError, exit_code
from xenvbd.stats import Snapshot
from xenvbd.verbs import Verbs


@pytest.fixture
def b():
    with bench() as made:
        backend(made)
        made.restarts = []
        made.verbs = Verbs(made.backend, lambda: made.restarts.append(1))
        yield made
        made.backend.close()


def call(b, verb, **params):
    """What the verb replies, or raises."""
    replies = []
    b.verbs.dispatch(verb, params, replies.append)
    b.until(lambda: replies)
    if isinstance(replies[0], OSError):
        raise replies[0]
    return replies[0]


def attach(b, **params):
    return call(b, "attach", **({"domain": "domain7", "target": "mem:1M", "vdev": "xvda", "wait": False} | params))


def test_ping_tells_how_the_daemon_is(b):
    attach(b)
    assert call(b, "ping") | {"pid": 0, "version": "", "started": 0} == {
        "started": 0,
        "pid": 0, "version": "", "disks": 1, "workers": 1, "store": True, "kinds": ["qdisk"]}


def test_attach_without_waiting_replies_once_the_disk_is_published(b):
    shown = attach(b)
    assert shown["disk"] == "domain7:xvda" and shown["state"]["backend"] == "InitWait"


def test_attach_that_waits_replies_once_the_guest_is_connected(b):
    replies = []
    b.verbs.dispatch("attach", {"domain": "7", "target": "mem:1M", "vdev": "xvda"}, replies.append)
    b.until(lambda: b.node("state") == "2")
    assert replies == []
    b.guest.connect()
    b.until(lambda: replies)
    assert replies[0]["state"]["backend"] == "Connected"


def test_attach_that_waits_in_vain_says_for_what_and_the_disk_stays(b):
    with pytest.raises(OSError, match=r"(Initialising|opened); .* `xenvbd detach 7:xvda` takes") as caught:
        attach(b, wait=True, timeout="50ms")
    assert exit_code(caught.value) == 4 and len(call(b, "list")["disks"]) == 1


def test_attach_to_a_guest_that_is_wrong_says_what_is_wrong_at_once(b):
    replies = []
    b.verbs.dispatch("attach", {"domain": "7", "target": "mem:1M", "vdev": "xvda"}, replies.append)
    b.until(lambda: b.node("state") == "2")
    b.guest.connect(ring_ref="none")
    b.until(lambda: replies)
    assert "ring-ref" in str(replies[0])


@pytest.mark.parametrize("params, node, value", [
    ({"mode": "r"}, "mode", "r"), ({"device-type": "cdrom"}, "info", "5"),
    ({"max-ring-page-order": 1}, "max-ring-pages", "2"),
    ({"logical-block-size": "4K", "physical-block-size": 4096}, "sector-size", "4096"),
    ({"max-queues": 3}, "multi-queue-max-queues", "3"), ({"barrier": True}, "feature-barrier", "1"),
    ({"persistent": True}, "feature-persistent", "1")], ids=str)
def test_properties_of_the_disk_are_taken(b, params, node, value):
    attach(b, **params)
    assert b.node(node) == value


@pytest.mark.parametrize("params, words", [
    ({"frobnicate": 1}, "does not know frobnicate"), ({"target": None}, "target is missing"),
    ({"target": "qcow2:/a"}, "qcow2"), ({"vdev": "xvd"}, "xvd"), ({"max-queues": "many"}, "max-queues"),
    ({"max-queues": 99}, "99"), ({"mode": 1}, "mode"), ({"logical-block-size": "4Q"}, "4Q"),
    ({"engine": "magic"}, "magic"), ({"timeout": "soon"}, "soon")], ids=str)
def test_what_is_wrong_is_refused_by_name_and_nothing_is_left(b, params, words):
    with pytest.raises(PropertyError, match=words) as caught:
        attach(b, **params)
    assert exit_code(caught.value) == 2
    b.settle()
    assert call(b, "list") == {"disks": []} and b.node("state") is None


def test_the_configuration_s_options_hold_where_attach_says_nothing(b):
    b.backend.host.options = lambda *names: DiskOptions(queues=4, barrier="domain7:xvda" in names)
    attach(b, **{"max-queues": 2})
    assert b.node("multi-queue-max-queues") == "2" and b.node("feature-barrier") == "1"


def test_an_engine_that_is_configured_is_for_images(b, tmp_path):
    b.backend.host.options = lambda *names: DiskOptions(engine="threads")
    (tmp_path / "a.img").write_bytes(bytes(1 << 20))
    assert attach(b)["engine"] == "auto" and attach(b, vdev="xvdb", target=f"{tmp_path}/a.img")["engine"] == "threads"


def test_a_free_vdev_is_chosen_and_a_taken_one_refused(b):
    assert [attach(b, vdev=None)["name"] for _ in range(2)] == ["xvda", "xvdb"]
    with pytest.raises(ClaimError, match="domain7:xvdb"):
        attach(b, vdev="xvdb")


@pytest.mark.parametrize("verb", ["detach", "show", "resume"])
def test_a_disk_that_is_none_is_refused(b, verb):
    with pytest.raises(NoSuchDisk):
        call(b, verb, disk="domain7:xvdz")
    with pytest.raises(PropertyError, match="missing"):
        call(b, verb)


def test_detach_replies_when_the_disk_is_gone_or_at_once(b):
    attach(b)
    assert call(b, "detach", disk="domain7:xvda", wait=False)["note"] != ""
    attach(b, vdev="xvdb")
    assert call(b, "detach", disk="7:xvdb", force=True) == {"disk": "domain7:xvdb"}


def test_detach_that_waits_in_vain_names_the_way_out(b):
    attach(b)
    b.guest.connect()
    b.until(lambda: b.node("state") == "4")
    with pytest.raises(OSError, match="--force") as caught:
        call(b, "detach", disk="domain7:xvda", timeout=0.05)
    assert exit_code(caught.value) == 4
    assert call(b, "detach", disk="domain7:xvda", force=True) == {"disk": "domain7:xvda"}


def test_list_shows_all_disks_or_a_domain_s_in_order(b):
    for name in ("xvdb", "xvda"):
        attach(b, vdev=name)
    assert [disk["name"] for disk in call(b, "list")["disks"]] == ["xvda", "xvdb"]
    assert len(call(b, "list", domain="domain7")["disks"]) == len(call(b, "list", domain="7")["disks"]) == 2
    assert call(b, "list", domain="0") == {"disks": []}
    with pytest.raises(NoSuchDisk, match="no domain named 'other'"):
        call(b, "list", domain="other")


def test_resume_says_whether_there_was_anything_to_resume(b, monkeypatch):
    attach(b)
    b.guest.connect()
    b.until(lambda: b.node("state") == "4")
    assert call(b, "resume", disk="domain7:xvda")["resumed"] is False
    device, zero = b.backend.find("domain7:xvda"), Snapshot.zero()
    held = Snapshot(zero.counters | {"stopped": 1}, zero.ops)
    monkeypatch.setattr(type(device), "counters", lambda self: held)
    assert call(b, "resume", disk="domain7:xvda")["resumed"] is True


def test_resume_after_a_failed_flush_is_refused(b, monkeypatch):
    attach(b)
    zero = Snapshot.zero()
    failed = Snapshot(zero.counters | {"stopped": 2}, zero.ops)
    monkeypatch.setattr(Device, "counters", lambda self: failed)
    with pytest.raises(OSError, match="a flush of it failed, and nothing is tried again"):
        call(b, "resume", disk="domain7:xvda")


def test_resume_asks_the_disk_s_worker(b):
    attach(b)
    with pytest.raises(OSError, match="not connected"):
        call(b, "resume", disk="domain7:xvda")
    b.guest.connect()
    b.until(lambda: b.node("state") == "4")
    assert call(b, "resume", disk="domain7:xvda")["disk"] == "domain7:xvda"
    assert "resume" in b.backend.workers.get(7).calls


def test_an_unknown_verb_is_refused_with_those_there_are(b):
    with pytest.raises(PropertyError, match="expected ping, attach"):
        call(b, "frobnicate")


def test_explain_names_what_came_upon_an_image_after_it_was_claimed(b, tmp_path):
    """Nothing keeps a loop device from being made over a file that is locked."""
    (tmp_path / "a.img").write_bytes(bytes(1 << 20))
    attach(b, target=str(tmp_path / "a.img"))
    assert call(b, "explain", disk="7:xvda")["warnings"] == []
    made = subprocess.run(["losetup", "--find", "--show", str(tmp_path / "a.img")], capture_output=True, text=True,
                          check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr}")
    device = made.stdout.strip()
    try:
        (tmp_path / "m").mkdir()
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        subprocess.run(["mount", device, str(tmp_path / "m")], check=True)
        (warning,) = call(b, "explain", disk="7:xvda")["warnings"]
        assert f"under {device}, which is mounted on" in warning
    finally:
        subprocess.run(["umount", str(tmp_path / "m")], check=False)
        subprocess.run(["losetup", "--detach", device], check=True)
