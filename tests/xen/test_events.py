"""What happens to a disk while its guest runs: taken away by force, no room for its image, a whole Debian on it."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

Maker = Callable[..., Guest]


def test_a_forced_detach_does_not_wait_for_the_guest(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    xenvbd.dom0("xl pause pv")
    xenvbd.detach(pv, "xvdb", "--force")
    xenvbd.nothing_left(domid, image)
    xenvbd.dom0("xl unpause pv")
    # The guest may still have the disk for a while, and gets nothing from it any more.
    assert "rror" in pv.run("dd if=/dev/xvdb of=/dev/null bs=4k count=1 iflag=direct || echo error", check=False)


def test_a_detach_is_given_up_where_the_guest_holds_the_disk_and_force_ends_it(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    pv.run("/bin/mke2fs -q -t ext4 /dev/xvdb; mount /dev/xvdb /mnt; echo kept >/mnt/file; sync")
    said = xenvbd.dom0("xenvbd --timeout 5 detach pv:xvdb; echo status $?", 60)
    assert "pv:xvdb" in said and said.endswith("status 4")          # timed out: the guest has it mounted
    assert pv.run("cat /mnt/file") == "kept"
    xenvbd.detach(pv, "xvdb", "--force")
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


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_debian_boots_from_it_installs_a_package_and_reboots(kind: str, new_guest: Maker, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("cp --sparse=always /guest/debian.img /srv/debian.img", 120)
    disk = ("vdev=xvda,format=raw,backendtype=qdisk,target=/srv/debian.img",)
    for boot in (1, 2):
        guest = new_guest("debian", 1, kind=kind, disks=disk, memory=256, arguments="testroot=/dev/xvda",
                          extra='device_model_override="/usr/lib/xenvbd/xenvbd-dm"', timeout=300)
        domid = guest.domid
        if boot == 1:
            assert guest.run("dpkg -i /var/cache/apt/hello_*.deb", 200)
        assert guest.run("hello") == "Hello, world!"
        assert guest.run("dpkg --verify libc6 hello bash", 200) == ""
        guest.line.send("sync; mount -o remount,ro /; poweroff -f\n")
        guest.wait_for_end(domid)
        xenvbd.nothing_left(domid, "/srv/debian.img")
    assert "clean" in xenvbd.dom0("e2fsck -fn /srv/debian.img >/dev/null && echo clean", 120)
