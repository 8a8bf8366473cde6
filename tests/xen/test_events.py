"""What happens to a disk while its guest runs: taken away in use or by force, no room for its image."""
from __future__ import annotations

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import CommandFailed, wait
from tests.xen.xenvbd import Xenvbd


def test_a_forced_detach_does_not_wait_for_the_guest(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    xenvbd.dom0("xl pause pv")
    xenvbd.detach(pv, "xvdb", "--force")
    xenvbd.nothing_left(domid, image)
    xenvbd.dom0("xl unpause pv")
    pv.wait_for("[ ! -b /dev/xvdb ]")           # its node is gone, and so its blkfront removes the disk
    # What the disk was is free for another.
    xenvbd.attach(pv, image, "xvdb")
    assert pv.run(workload.written("/dev/xvdb", 2)).split()[0] == xenvbd.checksum(image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)


def test_a_detach_that_a_guest_does_not_answer_is_told_and_done_once_it_does(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    inside = pv.run(workload.written("/dev/xvdb", 2)).split()[0]
    xenvbd.dom0("xl pause pv")
    said = xenvbd.dom0("xenvbd --timeout 5 detach pv:xvdb; echo status $?", 60)
    assert "pv:xvdb" in said and "has not answered Closing" in said and "--force" in said and said.endswith("status 4")
    assert xenvbd.show(pv, "xvdb")["state"] == {"backend": "Closing", "frontend": "Connected"}
    assert "has not answered" in xenvbd.dom0("xenvbd explain pv:xvdb", check=False)
    xenvbd.dom0("xl unpause pv")
    xenvbd.nothing_left(domid, image)
    pv.wait_for("[ ! -b /dev/xvdb ]")
    assert xenvbd.checksum(image) == inside


def test_a_mounted_disk_is_let_go_and_all_that_was_synced_is_in_the_image(pv: Guest, xenvbd: Xenvbd) -> None:
    """Linux's blkfront, 5.14 and later, does not look whether anybody has the disk open (blkfront_closing): it ends it
    and answers.  The file system finds out by an error, and nothing that was synced is lost."""
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    pv.run("/bin/mke2fs -q -t ext4 /dev/xvdb; mount /dev/xvdb /mnt; echo kept >/mnt/file; sync")
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)
    with pytest.raises(CommandFailed):          # an I/O error, or "Read-only file system" after one of ext4's own
        pv.run("dd if=/dev/zero of=/mnt/late bs=4k count=1 conv=fsync")
    pv.run("umount -l /mnt")

    xenvbd.attach(pv, image, "xvdc")
    assert pv.run("mount /dev/xvdc /mnt && cat /mnt/file && umount /mnt") == "kept"
    pv.run("/bin/e2fsck -fn /dev/xvdc")
    xenvbd.detach(pv, "xvdc")
    xenvbd.nothing_left(domid, image)


def test_a_full_file_system_stops_the_disk_until_there_is_room(pv: Guest, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("mkdir -p /srv/small; mount -t tmpfs -o size=8m tmpfs /srv/small; truncate -s 32M /srv/small/web.img")
    xenvbd.attach(pv, "/srv/small/web.img", "xvdb")
    pv.shell.start("dd if=/dev/urandom of=/tmp/data bs=1M count=16 2>/dev/null; "
                   "dd if=/tmp/data of=/dev/xvdb bs=1M 2>/dev/null; sync; cmp -n 16777216 /tmp/data /dev/xvdb")
    wait("a disk that is stopped", lambda: "no space" in xenvbd.show(pv, "xvdb")["note"], 120)
    assert "no space left" in xenvbd.dom0("xenvbd list")
    assert "no-space" in xenvbd.dom0("xenvbd explain pv:xvdb", check=False)
    xenvbd.dom0("mount -o remount,size=64m /srv/small; xenvbd resume pv:xvdb")
    pv.shell.finish(120)
    assert xenvbd.show(pv, "xvdb")["note"] == ""
    domid = pv.domid
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, "/srv/small/web.img")
