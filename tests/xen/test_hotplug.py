"""A disk plugged into a running Linux guest, used with its stock blkfront, and taken away again."""
from __future__ import annotations

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import TIMEOUT, Xenvbd

# The guest removes its disk when it has seen that its node is gone: a moment after the toolstack is done.
NO_DISK = '[ -z "$(ls /sys/block)" ]'


@pytest.mark.short
def test_a_pv_guest_uses_a_hot_plugged_disk_and_lets_it_go(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    assert xenvbd.attach(pv, image, "xvdb") == "pv:xvdb"
    assert pv.run("cat /sys/block/xvdb/size") == str(64 * 2048)

    pv.run(workload.fio("/dev/xvdb"), 180)
    pv.run(workload.file_system("/dev/xvdb"), 120)
    inside = pv.run("sync; sha256sum /dev/xvdb", 60).split()[0]
    assert xenvbd.checksum(image) == inside

    domid = pv.domid
    xenvbd.detach(pv, "xvdb")
    pv.wait_for(NO_DISK)
    xenvbd.nothing_left(domid, image)


@pytest.mark.short
def test_xl_makes_lists_and_detaches_a_disk(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.dom0(f"xl block-attach pv vdev=xvdc,backendtype=qdisk,format=raw,target={image}")
    pv.wait_for("[ -b /dev/xvdc ]")
    pv.run("dd if=/dev/urandom of=/dev/xvdc bs=64k count=16 2>/dev/null; sync")
    assert pv.run("sha256sum /dev/xvdc").split()[0] == xenvbd.checksum(image)
    assert f"/backend/qdisk/{domid}/51744" in xenvbd.dom0("xl block-list pv")
    xenvbd.dom0("xl block-detach pv xvdc")
    pv.wait_for(NO_DISK)
    xenvbd.nothing_left(domid, image)


@pytest.mark.short
def test_xl_lists_and_detaches_a_disk_that_xenvbd_made(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    assert f"/backend/qdisk/{domid}/51728" in xenvbd.dom0("xl block-list pv")
    xenvbd.dom0("xl block-detach pv xvdb")
    pv.wait_for(NO_DISK)
    xenvbd.nothing_left(domid, image)


@pytest.mark.short
def test_a_read_only_disk_is_read_and_not_written(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web", "8M")
    xenvbd.dom0(f"dd if=/dev/urandom of={image} bs=1M count=8 conv=notrunc 2>/dev/null")
    before = xenvbd.checksum(image)
    xenvbd.attach(pv, image, "xvdb", "--ro")
    assert pv.run("cat /sys/block/xvdb/ro") == "1"
    assert pv.run("sha256sum /dev/xvdb").split()[0] == before
    assert "ermi" in pv.run("dd if=/dev/zero of=/dev/xvdb bs=4k count=1", check=False)
    assert xenvbd.checksum(image) == before


@pytest.mark.short
def test_what_was_answered_before_a_detach_under_load_is_in_the_image(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    pv.shell.start("cd /tmp; (dd if=/dev/zero of=/dev/xvdb bs=64k seek=256 conv=notrunc >/dev/null 2>&1 &); i=0; "
                   "while printf 'block %08d' $i | dd of=/dev/xvdb bs=4k seek=$i conv=sync,fsync 2>/dev/null; "
                   "do i=$((i + 1)); echo $i >/dev/hvc0; done; echo last $i")
    pv.line.until("^12\r?\n", 60, take=False)
    xenvbd.detach(pv, "xvdb")
    written = int(pv.shell.finish(60).split("last ")[1])
    assert written >= 12
    found = xenvbd.dom0(f"dd if={image} bs=4k count={written} 2>/dev/null | tr -d '\\0'")
    assert found == "".join(f"block {number:08d}" for number in range(written))
    xenvbd.nothing_left(domid, image)


def test_xls_disk_specifications_are_taken_as_they_stand(pv: Guest, xenvbd: Xenvbd) -> None:
    image, other, domid = xenvbd.image("web"), xenvbd.image("other", "8M"), pv.domid
    for words, vdev, ro in ((f"vdev=xvdb,format=raw,access=rw,target={image}", "xvdb", "0"),
                            (f"{other},raw,xvdc,r", "xvdc", "1")):
        assert xenvbd.dom0(f"xenvbd {TIMEOUT} attach pv '{words}'", 90) == f"pv:{vdev}"
        pv.wait_for(f"[ -b /dev/{vdev} ]")
        assert pv.run(f"cat /sys/block/{vdev}/ro") == ro
    inside = pv.run(workload.written("/dev/xvdb", 2)).split()[0]
    for vdev in ("xvdb", "xvdc"):
        xenvbd.detach(pv, vdev)
    assert xenvbd.checksum(image) == inside
    xenvbd.nothing_left(domid, image, other)


def test_several_disks_of_a_guest_work_at_once_and_leave_one_by_one(pv: Guest, xenvbd: Xenvbd) -> None:
    domid, vdevs = pv.domid, ("xvdb", "xvdc", "xvdd", "xvde")
    images = {vdev: xenvbd.image(vdev, f"{4 + 4 * number}M") for number, vdev in enumerate(vdevs)}
    for vdev, image in images.items():
        xenvbd.attach(pv, image, vdev)
    assert len(xenvbd.workers()) == 1
    pv.run("for d in b c d e; do dd if=/dev/urandom of=/dev/xvd$d bs=64k conv=fsync 2>/dev/null & done; wait", 120)
    for vdev in ("xvdc", "xvde", "xvdb", "xvdd"):
        inside = pv.run(f"sha256sum /dev/{vdev}").split()[0]
        xenvbd.detach(pv, vdev)
        assert xenvbd.checksum(images[vdev]) == inside and not xenvbd.locked(images[vdev])
        pv.wait_for(f"[ ! -e /sys/block/{vdev} ]")
    xenvbd.nothing_left(domid, *images.values())


def test_a_pvh_guest_uses_a_hot_plugged_disk_and_lets_it_go(pvh: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pvh.domid
    xenvbd.attach(pvh, image, "xvdb")
    pvh.run(workload.fio("/dev/xvdb"), 300)
    pvh.run(workload.file_system("/dev/xvdb"), 240)
    assert pvh.run("sync; sha256sum /dev/xvdb", 120).split()[0] == xenvbd.checksum(image)
    xenvbd.detach(pvh, "xvdb")
    pvh.wait_for(NO_DISK)
    xenvbd.nothing_left(domid, image)
