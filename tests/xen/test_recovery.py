"""Workers and the daemon are killed under a guest that verifies: the stock blkfront sees no error, nothing is lost."""
from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.strikes import COMPLAINTS, compare, finished, load, strike, verify_until
from tests.xen.xenvbd import Xenvbd

KILLS = int(os.environ.get("XENVBD_XEN_KILLS", "10"))
MANY = int(os.environ.get("XENVBD_XEN_MANY_KILLS", "100"))


@pytest.mark.parametrize("whom", ["worker", "both", "restart"])
def test_a_guest_under_fio_sees_a_pause_and_no_error(pv: Guest, xenvbd: Xenvbd, whom: str) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    verify_until(pv, "/dev/xvdb", "/dev/xvdc")
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
