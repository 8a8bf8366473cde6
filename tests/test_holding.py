"""An image is what was opened, not what its path says now: a vbd's life while names and sizes change under it."""
import errno
import os
import subprocess

import pytest

from tests.support.manager import bench
from tests.test_device import CLOSED, CONNECTED, INITWAIT, connected
from xenvbd.disk import locks
from xenvbd.disk.identity import Identity
from xenvbd.errors import ClaimError
from xenvbd.images import Tenant
from xenvbd.medium import Policy
from xenvbd.record import Record
from xenvbd.show import note
from xenvbd.stats import Snapshot
from xenvbd.xenbus import XenbusState

KEY = "qdisk-7-51712"


@pytest.fixture
def b(monkeypatch):
    monkeypatch.setattr("xenvbd.holding.RECLAIM_SECONDS", 0.02)
    monkeypatch.setattr("xenvbd.adoption.RETRY_SECONDS", 0.02)
    with bench() as made:
        yield made


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def loop(tmp_path, image):
    """A block device on the image."""
    made = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=False)


def replace(image):
    """mv b.img a.img: another image has its name."""
    other = image.with_name("b.img")
    other.write_bytes(bytes(1 << 20))
    os.replace(other, image)


def closed(b):
    """The guest has closed the disk, and its next kernel is invited."""
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    b.guest.state(1)
    b.until(lambda: b.node("state") == INITWAIT)


def again(b):
    """The next kernel has connected."""
    closed(b)
    b.guest.connect(ring_ref=9)
    b.until(lambda: b.node("state") == CONNECTED)


def next_manager(b, device):
    """What a manager that died leaves, and the device that the next one makes of it; its worker died as well."""
    record = Record.from_json(dict(b.runtime.records())[KEY])
    device.close()
    b.host.images.close()
    b.host.images.__init__()
    b.devices.remove(device)
    return b._device(None), record


# The image that is opened again

def test_a_guest_that_connects_again_gets_the_image_that_it_had_though_another_has_its_name(b, image):
    connected(b, b.found(params=str(image)))
    replace(image)
    again(b)
    assert len(b.worker.images) == 2 and b.worker.images[0] == b.worker.images[1]


def test_a_guest_that_resumes_with_a_new_ring_gets_the_image_that_it_had(b, image):
    device = connected(b, b.found(params=str(image)))
    replace(image)
    for state in (4, 3):
        b.guest.connect(state, ring_ref=9)
        device.refresh()
    b.until(lambda: len(b.worker.images) == 2)
    assert b.worker.images[0] == b.worker.images[1]


def test_the_worker_that_follows_a_dead_one_gets_the_image_that_it_had(b, image):
    device = connected(b, b.found(params=str(image)))
    image.rename(image.with_name("away"))
    device.worker_lost(b.worker)
    b.until(lambda: len(b.worker.images) == 2)
    assert b.worker.images[0] == b.worker.images[1]


def test_a_removed_image_is_served_on(b, image):
    device = connected(b, b.found(params=str(image)))
    image.unlink()
    device.worker_lost(b.worker)
    b.until(lambda: device.connected)
    again(b)


def test_a_loop_device_is_not_pointed_elsewhere_while_a_vbd_has_it(b, loop, tmp_path):
    device = connected(b, b.found(params=loop))
    closed(b)
    other = tmp_path / "b.img"
    other.write_bytes(bytes(1 << 20))
    subprocess.run(["losetup", "--detach", loop], check=False)
    assert subprocess.run(["losetup", loop, str(other)], capture_output=True, check=False).returncode
    b.guest.connect(ring_ref=9)
    b.until(lambda: device.connected)
    assert b.worker.images[0] == b.worker.images[1]


# Claimed as long as the vbd exists

def test_the_image_stays_claimed_while_the_guest_is_between_two_kernels(b, image):
    connected(b, b.found(params=str(image)))
    closed(b)
    assert b.host.images.leave().keys() == {KEY}


def test_a_disk_that_has_gone_has_let_its_image_go(b, image):
    device = connected(b, b.found(params=str(image)))
    device.unplug(force=True)
    b.until(lambda: b.destroyed)
    assert b.host.images.leave() == {}


def test_a_disk_that_could_not_be_offered_has_let_its_image_go(b, image):
    device = b.found(params=str(image), mode="maybe")
    device.realize()
    b.until(lambda: device.failed)
    assert b.host.images.leave() == {}


# What a dead process had begun to write

def dying(monkeypatch, path):
    """A lock without a process, until it is taken out of the list."""
    landing, claimed = [ClaimError(errno.EINPROGRESS, "last writes under way", path=str(path))], locks.claim

    def claim(*args, **options):
        if landing:
            raise landing[0]
        claimed(*args, **options)

    monkeypatch.setattr(locks, "claim", claim)
    monkeypatch.setattr("xenvbd.device.RETRY_SECONDS", 0.02)
    return landing


def test_a_disk_is_offered_when_what_a_dead_process_had_begun_has_landed_however_long_that_takes(
        b, image, monkeypatch):
    b.host.policy = Policy(open_seconds=0.1)
    landing, device = dying(monkeypatch, image), b.found(params=str(image))
    device.realize()
    b.until(lambda: "under way" in device.landing)
    b.settle()
    assert not device.failed and b.node("error") is None and "under way" in note(device, Snapshot.zero())
    landing.clear()
    b.until(lambda: b.node("state") == INITWAIT)


def test_who_does_not_want_it_any_more_need_not_wait(b, image, monkeypatch):
    dying(monkeypatch, image)
    device = b.device(str(image))
    device.realize()
    b.until(lambda: device.landing)
    device.unplug(force=True)
    b.until(lambda: b.destroyed)
    assert b.node("state") is None


# What another manager finds

def test_the_next_manager_claims_the_image_again(b, image):
    device, record = next_manager(b, connected(b, b.found(params=str(image))))
    device.adopt(record, serving=True)
    b.until(lambda: b.host.images.leave().keys() == {KEY})
    assert device.holding.trouble == ""


def test_the_next_manager_knows_that_a_worker_is_at_work_on_the_image(b, image):
    """A stubdomain of the guest that connects now must not take that worker for one that is dead."""
    first = connected(b, b.found(params=str(image)))
    b.guest.state(4)            # else it may have resumed unseen, and is connected anew
    b.until(lambda: first.view.frontend is XenbusState.CONNECTED)
    device, record = next_manager(b, first)
    device.adopt(record, serving=True)
    b.until(lambda: device.holding.claimed)
    stubdomain = Tenant("qdisk-8-51712", 8, group=7)
    assert b.host.images.claim(stubdomain, str(image)) is b.host.images.of(device.key)
    assert not b.host.images.alone(stubdomain)
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    assert b.host.images.alone(stubdomain)


def test_the_next_manager_does_not_take_another_image_for_it_and_serves_on(b, image):
    device, record = next_manager(b, connected(b, b.found(params=str(image))))
    replace(image)
    device.adopt(record, serving=True)
    b.until(lambda: "not the image that was opened" in device.holding.trouble)
    assert b.node("state") == CONNECTED and not device.failed


def test_an_image_that_was_moved_away_and_back_is_taken_over_by_the_manager_that_looked_for_it_meanwhile(b, image):
    device, record = next_manager(b, connected(b, b.found(params=str(image))))
    image.rename(image.with_name("away"))
    device.adopt(record, serving=False)
    b.until(lambda: "No such file" in device.adopting)
    image.with_name("away").rename(image)
    b.until(lambda: device.connected)
    assert b.worker.images[0] == b.worker.images[1]


def test_no_ring_is_taken_over_with_another_image(b, image):
    device, record = next_manager(b, connected(b, b.found(params=str(image))))
    replace(image)
    device.adopt(record, serving=False)
    b.until(lambda: "not the image that was opened" in device.adopting)
    assert len(b.worker.images) == 1


def test_an_administrator_may_say_that_another_image_has_the_same_content(b, image, caplog):
    device, record = next_manager(b, connected(b, b.found(params=str(image))))
    replace(image)
    device.adopt(record, serving=False)
    b.until(lambda: "not the image that was opened" in device.adopting)
    with caplog.at_level("WARNING"):
        device.accept_image()
    b.until(lambda: device.connected)
    assert len(b.worker.images) == 2 and b.worker.images[0] != b.worker.images[1]
    assert "says that its content is the same" in caplog.text
    kept = Record.from_json(dict(b.runtime.records())[KEY])
    assert kept.identity == device.holding.identity and kept.image == record.image, "the journals are of the first"


def test_what_0_1_recorded_has_no_identity_and_is_taken_over_by_its_path(b, image):
    device, _ = next_manager(b, connected(b, b.found(params=str(image))))
    fields = dict(b.runtime.records())[KEY]
    old = {name: value for name, value in fields.items() if name not in ("identity", "image")} | {"version": 1}
    device.adopt(Record.from_json(old), serving=False)
    b.until(lambda: device.connected)
    assert b.worker.images[0] == b.worker.images[1] and b.worker.params["image-id"] is None


def test_a_host_that_was_booted_meanwhile_has_other_images(b, image):
    device, record = next_manager(b, connected(b, b.found(params=str(image))))
    fields = record.to_json()
    fields["identity"]["boot"] = "another"
    device.adopt(Record.from_json(fields), serving=False)
    b.until(lambda: "host's boot" in device.adopting)


# Its size

def test_an_image_that_has_grown_is_offered_to_the_next_kernel_with_its_new_size(b, image):
    device = connected(b, b.found(params=str(image)))
    os.truncate(image, 2 << 20)
    closed(b)
    assert b.node("sectors") == "4096"
    b.guest.connect(ring_ref=9)
    b.until(lambda: device.connected)
    assert b.worker.params["settings"]["size"] == 2 << 20


def test_while_it_is_connected_it_goes_on_with_the_size_that_the_guest_knows(b, image):
    device = connected(b, b.found(params=str(image)))
    os.truncate(image, 2 << 20)
    device.worker_lost(b.worker)
    b.until(lambda: len(b.worker.images) == 2)
    assert b.worker.params["settings"]["size"] == 1 << 20 and b.node("sectors") == "2048"


def test_a_grown_image_that_cannot_be_offered_so_is_offered_as_it_was(b, image):
    """Half a sector more: its end could not be reached."""
    connected(b, b.found(params=str(image)))
    os.truncate(image, (2 << 20) + 100)
    closed(b)
    assert b.node("sectors") == "2048"


def test_a_forced_detach_does_not_wait_for_an_image_to_be_looked_at(b, image, monkeypatch):
    device = connected(b, b.found(params=str(image)))
    monkeypatch.setattr(device.holding, "survey", lambda *asked: None)      # never answers
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    b.guest.state(1)
    b.settle()
    device.unplug(force=True)
    b.until(lambda: b.destroyed)


def test_a_record_keeps_what_the_image_is(b, image):
    connected(b, b.found(params=str(image)))
    fd = os.open(image, os.O_RDONLY)
    found = Identity.of(fd)
    os.close(fd)
    record = Record.from_json(dict(b.runtime.records())[KEY])
    assert record.identity == found and record.image == found.number


# Another backend that has the image.

def beside(b, image):
    """A disk of xen-blkback, of another guest."""
    b.toolstack.write("/local/domain/1/name", "db")
    for name, value in {"params": image, "mode": "w"}.items():
        b.toolstack.write(f"/local/domain/0/backend/vbd/1/51712/{name}", str(value))
    b.host.serves = lambda area: area[0] != "vbd"


def realized(b, image, **properties):
    device = b.device(str(image), **properties)
    device.realize()
    b.until(lambda: device.failed or device.published)
    return str(device.error or "")


def test_an_image_that_another_backend_has_is_refused_by_the_disk_s_name(b, image):
    beside(b, image)
    assert "db:xvda, served by the kernel's xen-blkback (backend/vbd/1/51712); detach it" in realized(b, image)


def test_what_says_that_it_shares_may(b, image):
    beside(b, image)
    assert realized(b, image, share=True) == ""


def test_a_stubdomain_of_the_other_guest_may(b, image):
    beside(b, image)
    b.toolstack.write("/local/domain/7/target", "1")
    assert realized(b, image) == ""


def test_another_domain_of_the_same_vm_may(b, image):
    beside(b, image)
    b.toolstack.write("/local/domain/1/vm", "vm")
    b.toolstack.introduce(1)
    assert realized(b, image) == ""


def test_a_disk_that_is_there_already_is_not_asked_again(b, image):
    device = connected(b, b.found(params=str(image)))
    beside(b, image)
    again(b)
    assert device.error is None


# QEMU

def qemu_writes(image):
    return subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", str(image)], capture_output=True,
                          check=False).returncode == 0


def test_qemus_tools_are_kept_out_from_the_offer_on(b, image):
    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    assert not qemu_writes(image)
    device.unplug(force=True)
    b.until(lambda: b.destroyed)
    assert qemu_writes(image)


def test_the_qemu_of_an_hvm_guest_can_open_its_disks_until_the_guest_has_a_driver(b, image):
    """libxl starts it after InitWait, with locks, and it emulates the disk until the guest unplugs that."""
    b.toolstack.write("/libxl/7/type", "hvm")
    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    assert qemu_writes(image)
    b.guest.connect()
    b.until(lambda: b.node("state") == CONNECTED)
    b.until(lambda: not qemu_writes(image))
    closed(b)
    b.until(lambda: qemu_writes(image))
