"""explain tells where a disk stands, why, and what to do: of disks that are served, and of those that are not."""
import os
import re

import pytest

from tests import test_backend
from tests.support.manager import BACKEND, FRONTEND
from tests.test_backend import asked, backend, toolstack
from xenvbd import claims
from xenvbd.disk.locks import lock_image
from xenvbd.errors import NoSuchDisk
from xenvbd.explain import explain
from xenvbd.medium import Policy
from xenvbd.rivals import Rival

NAME = "domain7:xvda"
b = test_backend.b          # the fixture


def told(b, *words, verdict, status, name=NAME):
    """What explain says, which must have these words in it."""
    story = explain(b.backend, name)
    text = " ".join([story["why"], *story["look"]])
    assert (story["verdict"], story["exit-status"]) == (verdict, status), story
    assert all(word in text for word in words), text
    return story


def states(story, end):
    return [step["state"] for step in story["states"] if step["end"] == end]


def offered(b, **nodes):
    backend(b)
    toolstack(b, **nodes)
    b.until(lambda: b.node("state") == "2")


def test_a_disk_that_is_served_has_its_handshake(b):
    offered(b)
    b.guest.connect()
    b.until(lambda: b.node("state") == "4")
    b.settle()
    story = told(b, "connected", verdict="serving", status=0)
    assert states(story, "backend") == ["Initialising", "InitWait", "Connected"]
    assert states(story, "frontend") == ["Initialising", "Initialised"]
    times = [step["seconds"] for step in story["states"]]
    assert times == sorted(times) and story["seconds"] >= times[-1] and story["backend"] == BACKEND


def test_a_guest_that_does_not_answer_is_waited_for(b):
    offered(b)
    story = told(b, f"{FRONTEND}/state is Initialising", "dmesg | grep xvda", verdict="waiting", status=4)
    assert story["size"] == 1 << 20 and story["target"] == str(b.image)


def test_a_guest_that_does_not_let_go_is_named(b):
    offered(b)
    b.guest.connect(state=4)
    b.until(lambda: b.node("state") == "4")
    b.settle()
    b.backend.find(NAME).unplug(False)
    told(b, "detach --force domain7:xvda", "Closing", verdict="waiting", status=4)


def test_a_target_that_cannot_be_opened_is_the_reason(b):
    backend(b)
    toolstack(b, params="aio:/nonexistent")
    b.until(lambda: b.node("hotplug-status") == "error")
    told(b, "/nonexistent", "attach it again", verdict="failed", status=1)


def test_a_target_outside_the_allowed_places_names_the_setting(b):
    backend(b)
    b.backend.host.policy = Policy(allow=("/srv",))
    toolstack(b)
    b.until(lambda: b.node("hotplug-status") == "error")
    told(b, "[targets]", verdict="failed", status=1)


def test_a_disk_that_a_new_worker_takes_over_says_what_that_waits_for(b):
    offered(b)
    b.guest.connect()
    b.until(lambda: b.node("state") == "4")
    b.settle()
    device = b.backend.find(NAME)
    with open(b.image, "r+b") as file:
        lock_image(file.fileno(), str(b.image), exclusive=True, fence="7/51712")
        os.close(os.open(b.runtime.journal(device.key, 0), os.O_RDWR | os.O_CREAT))
        device.worker_lost(b.backend.workers.get(7))
        told(b, "the next opens its image", "detach --force domain7:xvda", verdict="waiting", status=4)
        b.until(lambda: re.search(r"waits for its image for \d+ s", explain(b.backend, NAME)["why"]))
    b.until(lambda: device.connected)


def test_an_image_that_looks_like_another_format_is_served_raw_and_said_to_look_so(b, caplog):
    b.image.write_bytes(b"QFI\xfb\0\0\0\3".ljust(1 << 20, b"\0"))
    offered(b)
    [warning] = told(b, verdict="waiting", status=4)["warnings"]
    assert "format qcow2" in warning and warning in caplog.text and b.node("sectors") == "2048"


def test_a_ring_that_cannot_be_connected_shows_what_the_guest_wrote(b):
    offered(b)
    b.guest.connect(ring_ref="none")
    b.until(lambda: b.node("error"))
    told(b, "ring-ref", f"xenstore-ls {FRONTEND}", verdict="failed", status=1)


def test_a_kind_that_is_not_claimed_is_said_to_be_so(b):
    backend(b, kinds=("vbd3",))
    toolstack(b)
    b.settle()
    told(b, "its kind is qdisk", 'kinds = ["qdisk"]', verdict="refused", status=7)


def test_a_rival_is_named(b, monkeypatch):
    monkeypatch.setattr(claims, "REPORT_SECONDS", 0.05)
    backend(b, rival=lambda kind, domid: Rival("QEMU (process 9)", "stop it") if domid == 7 else None)
    toolstack(b)
    b.until(lambda: b.backend.claims.refused)
    told(b, "QEMU (process 9)", "service xenvbd reload", verdict="refused", status=7)


@pytest.mark.parametrize("nodes, words", [
    ({"state": 4}, "its backend's state is Connected"), ({"online": 0}, "online is not 1")])
def test_an_area_that_was_not_new_is_none_of_ours(b, nodes, words):
    backend(b)
    toolstack(b, **nodes)
    b.settle()
    story = told(b, words, verdict="refused", status=7)
    assert story["seconds"] is None and states(story, "frontend") == ["Initialising"]


def test_a_frontend_without_a_backend_is_half_a_disk(b):
    backend(b)
    b.toolstack.write(f"{FRONTEND}/backend", BACKEND)
    told(b, BACKEND, "xl block-detach", verdict="failed", status=1)


@pytest.mark.parametrize("name", ["domain7:xvdz", "nobody:xvda"])
def test_what_is_nowhere_is_no_disk(b, name):
    backend(b)
    b.backend.create(asked())
    with pytest.raises(NoSuchDisk):
        explain(b.backend, name)


def test_no_key_is_ever_missing(b):
    offered(b)
    served = explain(b.backend, NAME)
    toolstack(b, devid=51728, state=4)
    toolstack(b, devid=51744)
    b.toolstack.rm(BACKEND.replace("51712", "51744"))
    others = [explain(b.backend, f"7:{vdev}") for vdev in ("xvdb", "xvdc")]
    assert all(other.keys() == served.keys() for other in others)
    assert all(step.keys() == {"end", "state", "seconds"} for story in (served, *others) for step in story["states"])
