"""Guests come and go: what they wrote is in the image, and nothing of their disks stays behind."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

Maker = Callable[..., Guest]
ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
NO_QEMU = 'device_model_override="/usr/lib/xenvbd/xenvbd-dm"'


def disk_line(*images: str) -> tuple[str, ...]:
    """xl.cfg's disks that xenvbd serves: xvda, xvdb, ..."""
    return tuple(f"vdev=xvd{letter},format=raw,backendtype=qdisk,target={image}"
                 for letter, image in zip("abcd", images, strict=False))


def test_a_guest_finds_the_disks_that_were_attached_before_it_ran(new_guest: Maker, xenvbd: Xenvbd) -> None:
    images = [xenvbd.image("a"), xenvbd.image("b", "16M")]
    guest = new_guest("web", 1, paused=True)
    for image, vdev in zip(images, ("xvda", "xvdb"), strict=True):
        xenvbd.attach(guest, image, vdev, "--no-wait")
    guest.unpause()
    guest.run(workload.file_system("/dev/xvda"), 120)
    guest.run(workload.written("/dev/xvdb", 8))
    for image, vdev in zip(images, ("xvda", "xvdb"), strict=True):
        assert guest.run(f"sync; sha256sum /dev/{vdev}").split()[0] == xenvbd.checksum(image)
    domid = guest.domid
    guest.destroy()
    guest.wait_for_end(domid)
    xenvbd.nothing_left(domid, *images)


def test_a_pvh_guest_finds_the_disk_that_was_attached_before_it_ran(new_guest: Maker, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    guest = new_guest("web", 1, kind="pvh", paused=True)
    xenvbd.attach(guest, image, "xvda", "--no-wait")
    guest.unpause(300)
    guest.run(workload.file_system("/dev/xvda"), 240)
    assert guest.run("sync; sha256sum /dev/xvda", 120).split()[0] == xenvbd.checksum(image)
    domid = guest.domid
    guest.destroy()
    guest.wait_for_end(domid)
    xenvbd.nothing_left(domid, image)


def test_a_guest_that_never_ran_is_destroyed_with_its_disk(new_guest: Maker, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    guest = new_guest("web", 1, paused=True)
    xenvbd.attach(guest, image, "xvda", "--no-wait")
    domid = guest.domid
    guest.destroy()
    guest.wait_for_end(domid)
    xenvbd.nothing_left(domid, image)


@pytest.mark.parametrize("how", ["xl shutdown -w pv", "poweroff -f"])
def test_a_guest_shuts_down_and_what_it_wrote_is_there(pv: Guest, xenvbd: Xenvbd, how: str) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    inside = pv.run(workload.written("/dev/xvdb", 8)).split()[0]
    if how.startswith("xl"):
        xenvbd.dom0(how, 90)
    else:
        pv.line.send(how + "\n")
    pv.wait_for_end(domid)
    xenvbd.nothing_left(domid, image)
    assert xenvbd.checksum(image) == inside


@pytest.mark.parametrize("how", [pytest.param("destroyed", marks=pytest.mark.short), "crashed"])
def test_a_guest_dies_under_load_and_leaves_nothing(pv: Guest, xenvbd: Xenvbd, how: str) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    inside = pv.run(workload.written("/dev/xvdb", 2) + "; dd if=/dev/xvdb bs=1M count=2 2>/dev/null | sha256sum")
    pv.run("echo 1 >/proc/sys/kernel/sysrq")
    pv.shell.start("while :; do dd if=/dev/zero of=/dev/xvdb bs=64k seek=256 conv=notrunc 2>/dev/null; done")
    wait("load", lambda: xenvbd.show(pv, "xvdb")["stats"]["write"]["ops"] > 200, 60)
    if how == "destroyed":
        pv.destroy()
    else:
        # Its kernel panics in the middle of what it does; on_crash in its configuration says "destroy".
        xenvbd.dom0("xl sysrq pv c")
    pv.wait_for_end(domid)
    xenvbd.nothing_left(domid, image)
    assert xenvbd.dom0(f"dd if={image} bs=1M count=2 2>/dev/null | sha256sum") == inside.splitlines()[-1]


@pytest.mark.parametrize("how", ["xl reboot web", "reboot -f"])
def test_a_guest_reboots_and_finds_its_data(new_guest: Maker, xenvbd: Xenvbd, how: str) -> None:
    image = xenvbd.image("web")
    guest = new_guest("web", 1, disks=disk_line(image), extra=NO_QEMU)
    first = guest.domid
    inside = guest.run(workload.written("/dev/xvda", 8))
    guest.line.clear()
    if how.startswith("xl"):
        xenvbd.dom0(how)
    else:
        guest.line.send(how + "\n")
    wait("another domain of that name", lambda: xenvbd.dom0("xl domid web 2>/dev/null", check=False)
         not in ("", str(first)), 120)
    guest.follow()
    guest.shell.sync(180)
    guest.wait_for("[ -b /dev/xvda ]")
    assert guest.run("sha256sum /dev/xvda") == inside
    assert xenvbd.nodes(first) == ""
    assert len(xenvbd.workers()) == 1
    second = guest.domid
    guest.destroy()
    guest.wait_for_end(second)
    xenvbd.nothing_left(second, image)


def test_two_guests_have_a_worker_each_and_one_outlives_the_other(new_guest: Maker, xenvbd: Xenvbd) -> None:
    images = [xenvbd.image(name) for name in ("one", "two")]
    one, two = (new_guest(name, port, disks=disk_line(image), extra=NO_QEMU)
                for port, (name, image) in enumerate(zip(("one", "two"), images, strict=True), 1))
    assert len(xenvbd.workers()) == 2
    for guest in (one, two):
        guest.shell.start(workload.file_system("/dev/xvda"))
    for guest, image in zip((one, two), images, strict=True):
        guest.shell.finish(200)
        assert guest.run("sync; sha256sum /dev/xvda").split()[0] == xenvbd.checksum(image)

    two.shell.start(workload.file_system("/dev/xvda"))
    domid = one.domid
    one.destroy()
    one.wait_for_end(domid)
    two.shell.finish(200)
    assert xenvbd.nodes(domid) == "" and not xenvbd.locked(images[0])
    assert len(xenvbd.workers()) == 1
    assert two.run("sync; sha256sum /dev/xvda").split()[0] == xenvbd.checksum(images[1])


def test_a_guest_is_saved_and_restored_with_its_two_disks(new_guest: Maker, xenvbd: Xenvbd) -> None:
    images = {vdev: xenvbd.image(vdev) for vdev in ("xvda", "xvdb")}
    guest = new_guest("web", 1, disks=disk_line(*images.values()), extra=NO_QEMU)
    first, inside = guest.domid, {vdev: guest.run(workload.written(f"/dev/{vdev}", 8)) for vdev in images}
    guest.run("echo 3 >/proc/sys/vm/drop_caches")
    xenvbd.dom0("xl save web /root/web.save", 300)
    guest.wait_for_end(first)
    xenvbd.nothing_left(first, *images.values())
    xenvbd.dom0("xl restore -p /root/web.save", 300)
    guest.follow()
    xenvbd.dom0("xl unpause web")
    guest.shell.sync(120)
    for vdev, image in images.items():
        assert guest.run(f"sha256sum /dev/{vdev}") == inside[vdev]
        guest.run(workload.file_system(f"/dev/{vdev}"), 120)
        assert guest.run(f"sync; sha256sum /dev/{vdev}").split()[0] == xenvbd.checksum(image)


@pytest.mark.parametrize("worker", ["lives", "killed"])
def test_a_domain_with_a_used_number_gets_nothing_of_the_one_before(new_guest: Maker, xenvbd: Xenvbd,
                                                                    worker: str) -> None:
    """xl keeps the number of a saved domain if told to (-D); another uuid makes it somebody else."""
    old, new = xenvbd.image("old"), xenvbd.image("new")
    for image in (old, new):
        xenvbd.dom0(f"echo {image} | dd of={image} conv=notrunc 2>/dev/null")
    guest = new_guest("web", 1, extra=f'uuid="{ONE}"')
    domid = guest.domid
    xenvbd.attach(guest, old, "xvdb")
    assert guest.run("head -n 1 /dev/xvdb") == old
    xenvbd.service("stop")                          # nobody sees the end of the first
    xenvbd.dom0("LIBXL_DOMID_REUSE_TIMEOUT=0 xl save -D web /root/web.save", 300)
    xenvbd.dom0(f"LC_ALL=C sed -i s/{ONE}/{OTHER}/g /root/web.save")
    restore = "LIBXL_DOMID_REUSE_TIMEOUT=0 xl restore -p /root/web.save"
    if worker == "lives":
        # The number is not free as long as a worker has a page of the first.
        assert not xenvbd.dom0(f"{restore}; echo exit $?", 300).endswith("exit 0")
        xenvbd.service("start")
        guest.wait_for_end(domid)
        xenvbd.dom0(restore, 300)
    else:
        xenvbd.dom0(f"kill -9 {xenvbd.workers()[0]}")
        guest.wait_for_end(domid)
        xenvbd.dom0(restore, 300)
        xenvbd.service("start")
    assert guest.domid == domid
    xenvbd.nothing_left(domid, old)

    guest.follow()
    xenvbd.dom0("xl unpause web")
    guest.shell.sync(120)
    xenvbd.attach(guest, new, "xvdc")
    assert guest.run("head -n 1 /dev/xvdc") == new
