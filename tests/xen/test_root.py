"""A Debian whose root file system is on xenvbd: boots, installs a package, reboots, is intact."""
from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

DISK = "vdev=xvda,format=raw,backendtype=qdisk,target={image}"
WITHOUT_QEMU = 'device_model_override="/usr/lib/xenvbd/xenvbd-dm"'


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_a_debian_boots_installs_a_package_reboots_and_is_intact(kind: str, new_guest: Callable[..., Guest],
                                                                 xenvbd: Xenvbd) -> None:
    image = "/srv/debian.img"
    xenvbd.dom0(f"ln /guest/debian.img {image}")         # the machine goes back to its level afterwards
    guest = new_guest("debian", 1, kind=kind, disks=(DISK.format(image=image),), extra=WITHOUT_QEMU, memory=256,
                      arguments="testroot=/dev/xvda", timeout=400)
    assert guest.run("cat /etc/debian_version").startswith("12")
    assert re.search(r"^/dev/xvda / ext4 rw", guest.run("cat /proc/mounts"), re.M)
    guest.run("dpkg -i /var/cache/apt/hello_*.deb", 240)
    assert guest.run("hello") == "Hello, world!"
    guest.run("dd if=/dev/urandom of=/root/big bs=1M count=16 2>/dev/null; sha256sum /root/big >/root/sum; sync", 120)

    domid = guest.domid
    guest.line.send("sync; echo u >/proc/sysrq-trigger; sleep 2; echo b >/proc/sysrq-trigger\n")
    wait("another domain of that name",
         lambda: xenvbd.dom0("xl domid debian 2>/dev/null", check=False) not in ("", str(domid)), 240)
    guest.follow()
    guest.shell.sync(400)
    assert guest.run("hello") == "Hello, world!"
    guest.run("sha256sum -c /root/sum; dpkg --verify hello; dpkg --audit", 120)
    assert guest.run("dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)' || true") == ""

    guest.run("mount -o remount,ro /", 60)
    domid = guest.domid
    guest.destroy()
    xenvbd.nothing_left(domid, image)
    xenvbd.dom0(f"e2fsck -fn {image}", 240)
