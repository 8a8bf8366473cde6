"""What happens to guests: two at once, reboot, crash, save and restore, a forced detach, a full file system."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

Maker = Callable[..., Guest]


def with_disk(new_guest: Maker, xenvbd: Xenvbd, name: str, port: int = 1, **given: object) -> tuple[Guest, str]:
    """A small guest whose disk xl.cfg names, and the image."""
    image = xenvbd.image(name)
    guest = new_guest(name, port, disks=(f"vdev=xvda,format=raw,backendtype=qdisk,target={image}",), **given,
                      extra='device_model_override="/usr/lib/xenvbd/xenvbd-dm"')
    return guest, image


def test_two_guests_at_once_have_a_worker_each(new_guest: Maker, xenvbd: Xenvbd) -> None:
    made = [with_disk(new_guest, xenvbd, name, port) for port, name in enumerate(("one", "two"), 1)]
    for guest, _ in made:
        guest.shell.start(workload.file_system("/dev/xvda"))
    for guest, image in made:
        guest.shell.finish(200)
        assert guest.run("sync; sha256sum /dev/xvda").split()[0] == xenvbd.checksum(image)
    assert len(xenvbd.workers()) == 2


def test_a_guest_reboots_and_finds_its_data(new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest, _ = with_disk(new_guest, xenvbd, "web")
    first = guest.domid
    guest.run("echo before the reboot | dd of=/dev/xvda conv=notrunc 2>/dev/null; sync")
    guest.line.clear()
    guest.line.send("reboot -f\n")
    xenvbd.dom0(f"for i in $(seq 60); do [ $(xl domid web) -gt {first} ] 2>/dev/null && exit; sleep 1; done; exit 1",
                120)
    guest.follow()
    guest.shell.sync(180)
    assert guest.run("head -n 1 /dev/xvda") == "before the reboot"
    assert xenvbd.nodes(first) == ""
    assert len(xenvbd.workers()) == 1


def test_a_guest_that_crashes_leaves_nothing(new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest, image = with_disk(new_guest, xenvbd, "web")
    domid = guest.domid
    guest.line.send("echo 1 >/proc/sys/kernel/sysrq; dd if=/dev/zero of=/dev/xvda bs=64k & sleep 1; "
                    "echo c >/proc/sysrq-trigger\n")
    xenvbd.dom0("for i in $(seq 60); do xl domid web 2>/dev/null || exit 0; sleep 1; done; exit 1", 120)
    xenvbd.nothing_left(domid, image)


def test_a_guest_is_saved_and_restored(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb")
    pv.run("dd if=/dev/urandom of=/dev/xvdb bs=64k count=64 2>/dev/null; sync")
    first, before = pv.domid, pv.run("sha256sum /dev/xvdb")
    xenvbd.dom0("xl save pv /root/pv.save", 300)
    xenvbd.nothing_left(first, image)
    xenvbd.dom0("xl restore -p /root/pv.save", 300)
    pv.follow()
    xenvbd.dom0("xl unpause pv")
    pv.shell.sync(120)
    xenvbd.attach(pv, image, "xvdb")
    assert pv.run("sha256sum /dev/xvdb") == before


def test_a_forced_detach_does_not_wait_for_the_guest(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    xenvbd.dom0("xl pause pv")
    xenvbd.detach(pv, "xvdb", "--force")
    xenvbd.nothing_left(domid, image)
    xenvbd.dom0("xl unpause pv")
    assert "rror" in pv.run("dd if=/dev/xvdb of=/dev/null bs=4k count=1 || echo error", check=False)


def test_a_full_file_system_stops_the_disk_until_there_is_room(pv: Guest, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("mkdir -p /srv/small; mount -t tmpfs -o size=8m tmpfs /srv/small; truncate -s 32M /srv/small/web.img")
    xenvbd.attach(pv, "/srv/small/web.img", "xvdb")
    pv.shell.start("dd if=/dev/urandom of=/tmp/data bs=1M count=16 2>/dev/null; "
                   "dd if=/tmp/data of=/dev/xvdb bs=1M 2>/dev/null; sync; cmp -n 16777216 /tmp/data /dev/xvdb")
    xenvbd.dom0("for i in $(seq 60); do xenvbd list | grep -iq space && exit; sleep 1; done; exit 1", 180)
    xenvbd.dom0("mount -o remount,size=64m /srv/small; xenvbd resume pv:xvdb")
    pv.shell.finish(120)


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_debian_boots_from_it_installs_a_package_and_reboots(kind: str, new_guest: Maker, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("cp --sparse=always /guest/debian.img /srv/debian.img", 120)
    disk = ("vdev=xvda,format=raw,backendtype=qdisk,target=/srv/debian.img",)
    for boot in (1, 2):
        guest = new_guest("debian", 1, kind=kind, disks=disk, memory=256, arguments="testroot=/dev/xvda",
                          extra='device_model_override="/usr/lib/xenvbd/xenvbd-dm"', timeout=300)
        if boot == 1:
            assert guest.run("dpkg -i /var/cache/apt/hello_*.deb", 200)
        assert guest.run("hello") == "Hello, world!"
        assert guest.run("dpkg --verify libc6 hello bash", 200) == ""
        guest.line.send("sync; mount -o remount,ro /; poweroff -f\n")
        xenvbd.dom0("for i in $(seq 60); do xl domid debian 2>/dev/null || exit 0; sleep 1; done; exit 1", 120)
    assert "clean" in xenvbd.dom0("e2fsck -fn /srv/debian.img >/dev/null && echo clean", 120)
