"""Workers and the daemon are killed under a guest that verifies: the stock blkfront sees no error, nothing is lost."""
from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import TIMEOUT, Xenvbd

KILLS = int(os.environ.get("XENVBD_XEN_KILLS", "10"))
MANY = int(os.environ.get("XENVBD_XEN_MANY_KILLS", "100"))
COMPLAINTS = "I/O error|Buffer I/O|disabled for further use|EXT4-fs error|Remounting|blocked for more"


def served(xenvbd: Xenvbd) -> dict[str, int]:
    """The disks that are connected, each with the process that serves it."""
    return {disk["name"]: disk["pid"] for disk in xenvbd.disks()
            if disk["plane"] == "running" and set(disk["state"].values()) == {"Connected"}}


def strike(xenvbd: Xenvbd, whom: str, *vdevs: str, delay: float = 0.0) -> None:
    """Kill, or replace, what serves the guest; wait until another serves its disks.  delay: of the daemon's death."""
    workers = xenvbd.workers()
    assert workers
    worker = " ".join(map(str, workers))
    if whom == "restart":
        xenvbd.dom0(f"xenvbd {TIMEOUT} restart --worker pv:{vdevs[0]}", 90)
    elif whom == "both":
        xenvbd.dom0(f"kill -9 {worker}; sleep {delay}; kill -9 $(cat /run/xenvbd/manager.lock); sleep 0.2", check=False)
        xenvbd.service("start")
    else:
        xenvbd.dom0(f"kill -9 {worker}")
    wait("disks that were taken over", lambda: (now := served(xenvbd)).keys() >= set(vdevs)
         and not set(now.values()) & set(workers), 60)


def load(xenvbd: Xenvbd, guest: Guest) -> None:
    wait("load", lambda: xenvbd.show(guest, "xvdb")["stats"]["write"]["ops"] > 0, 60)


def finished(xenvbd: Xenvbd, guest: Guest, stop: str) -> list[str]:
    """Give the guest the disk that ends its loops; what they printed, every round of fio without an error."""
    xenvbd.attach(guest, xenvbd.image("stop", "1M"), stop, "--no-wait")
    lines = guest.shell.finish(600).splitlines()
    rounds = [line for line in lines if ";" in line]
    assert rounds and all(line.split(";")[0] == "0" for line in rounds), lines
    assert guest.run(f"dmesg | grep -E '{COMPLAINTS}' || true") == ""
    return lines


def compare(xenvbd: Xenvbd, guest: Guest, **images: str) -> None:
    """The images hold what the guest's disks do."""
    for vdev, image in images.items():
        assert guest.run(f"sync; sha256sum /dev/{vdev}", 120).split()[0] == xenvbd.checksum(image)


@pytest.mark.parametrize("whom", ["worker", "both", "restart"])
def test_a_guest_under_fio_sees_a_pause_and_no_error(pv: Guest, xenvbd: Xenvbd, whom: str) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    pv.shell.start(f"until [ -b /dev/xvdc ]; do {workload.fio('/dev/xvdb', '16M', 32)}; done")
    load(xenvbd, pv)
    for _ in range(KILLS):
        strike(xenvbd, whom, "xvdb")
    finished(xenvbd, pv, "xvdc")
    compare(xenvbd, pv, xvdb=image)
    for vdev in ("xvdb", "xvdc"):
        xenvbd.detach(pv, vdev)
    xenvbd.nothing_left(domid, image)


def test_a_hundred_kills_under_fio_and_ext4_are_pauses_and_no_error(pv: Guest, xenvbd: Xenvbd,
                                                                    say: Callable[[str], None]) -> None:
    """fio on one disk, ext4 made, filled and checked on another, all the while.  Each tenth time the daemon is killed
    as well, at once or while it follows the worker."""
    domid, images = pv.domid, {vdev: xenvbd.image(vdev) for vdev in ("xvdb", "xvdc")}
    for vdev, image in images.items():
        xenvbd.attach(pv, image, vdev)
    watch, ext4, fio = (f"until [ -b /dev/xvdd ]; do {work}; done" for work in (
        workload.slow_sector("/dev/xvdc"), workload.file_system("/dev/xvdc"), workload.fio("/dev/xvdb", "16M", 32)))
    pv.shell.start(f"({watch}) & ({ext4}) & ext4=$!; {fio}; wait $ext4")
    load(xenvbd, pv)
    start = time.monotonic()
    seen = len(pv.line.seen(r"pause \d+\r?\n"))
    for number in range(1, MANY + 1):
        whom = "worker" if number % 10 else "both"
        strike(xenvbd, whom, "xvdb", "xvdc", delay=number // 10 % 4 / 10)
        pauses = [int(text.split()[1]) / 100 for text in pv.line.seen(r"pause \d+\r?\n")]
        say(f"kill {number} of {MANY}, {whom}, after {time.monotonic() - start:.0f} s: "
            f"the guest waited {max(pauses[seen:], default=0):.2f} s for a sector")
        seen = len(pauses)
    lines = finished(xenvbd, pv, "xvdd")
    pauses = sorted(int(line.split()[1]) / 100 for line in lines if line.startswith("pause "))
    say(f"{MANY} kills in {time.monotonic() - start:.0f} s; {sum(';' in line for line in lines)} rounds of fio, "
        f"{sum(' files ' in line for line in lines)} of ext4; the longest waits: {pauses[-10:]}")
    compare(xenvbd, pv, **images)
    pv.run("/bin/e2fsck -fn /dev/xvdc")
    for vdev in (*images, "xvdd"):
        xenvbd.detach(pv, vdev)
    xenvbd.nothing_left(domid, *images.values())


def test_ext4_outlives_the_worker(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    for number in range(KILLS):
        pv.shell.start(workload.file_system("/dev/xvdb"))
        xenvbd.dom0(f"sleep 0.{number % 10}")
        strike(xenvbd, "worker", "xvdb")
        pv.shell.finish(300)
    assert pv.run(f"dmesg | grep -E '{COMPLAINTS}' || true") == ""
    compare(xenvbd, pv, xvdb=image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)
