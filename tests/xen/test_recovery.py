"""Workers and the daemon are killed under a guest that verifies: the stock blkfront sees no error, nothing is lost."""
from __future__ import annotations

import os

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

KILLS = int(os.environ.get("XENVBD_XEN_KILLS", "10"))
COMPLAINTS = "I/O error|Buffer I/O|disabled for further use|EXT4-fs error|Remounting|blocked for more"


def connected(xenvbd: Xenvbd, guest: Guest, vdev: str) -> bool:
    shown = xenvbd.show(guest, vdev)
    return shown["plane"] == "running" and shown["state"] == {"backend": "Connected", "frontend": "Connected"}


def follow(xenvbd: Xenvbd, guest: Guest, killed: list[int]) -> None:
    """Wait until the disk is served again, by none of these."""
    wait("a disk that was taken over", lambda: not set(killed) & set(xenvbd.workers())
         and connected(xenvbd, guest, "xvdb"), 60)


def verify_until_told(xenvbd: Xenvbd, guest: Guest) -> None:
    """Let fio write and verify, again and again, until there is another disk."""
    guest.shell.start(f"until [ -b /dev/xvdc ]; do {workload.fio('/dev/xvdb', '16M', 32)}; done")
    wait("load", lambda: xenvbd.show(guest, "xvdb")["stats"]["write"]["ops"] > 0, 60)


def verified(xenvbd: Xenvbd, guest: Guest) -> list[str]:
    """End it, and give what fio said of each round."""
    xenvbd.attach(guest, xenvbd.image("stop", "1M"), "xvdc", "--no-wait")
    return guest.shell.finish(600).splitlines()


@pytest.mark.parametrize("whom", ["worker", "both", "restart"])
def test_a_guest_under_fio_sees_a_pause_and_no_error(pv: Guest, xenvbd: Xenvbd, whom: str) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    verify_until_told(xenvbd, pv)
    for _ in range(KILLS):
        workers = xenvbd.workers()
        assert workers
        if whom == "restart":
            xenvbd.dom0("xenvbd --timeout 60 restart --worker pv:xvdb", 90)
        else:
            xenvbd.dom0(f"kill -9 {' '.join(map(str, workers))}")
        if whom == "both":
            xenvbd.dom0("kill -9 $(cat /run/xenvbd/manager.lock); sleep 0.2", check=False)
            xenvbd.service("start")
        follow(xenvbd, pv, workers)
    lines = verified(xenvbd, pv)
    assert lines and all(line.split(";")[0] == "0" for line in lines), lines
    assert pv.run(f"dmesg | grep -E '{COMPLAINTS}' || true") == ""
    assert pv.run("sync; sha256sum /dev/xvdb", 120).split()[0] == xenvbd.checksum(image)
    for vdev in ("xvdb", "xvdc"):
        xenvbd.detach(pv, vdev)
    xenvbd.nothing_left(domid, image)


def test_ext4_outlives_the_worker(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    for _ in range(KILLS):
        workers = xenvbd.workers()
        pv.shell.start(workload.file_system("/dev/xvdb"))
        xenvbd.dom0(f"sleep 0.7; kill -9 {' '.join(map(str, workers))}")
        follow(xenvbd, pv, workers)
        pv.shell.finish(300)
    assert pv.run(f"dmesg | grep -E '{COMPLAINTS}' || true") == ""
    assert pv.run("sync; sha256sum /dev/xvdb").split()[0] == xenvbd.checksum(image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)
