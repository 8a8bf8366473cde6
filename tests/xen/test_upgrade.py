"""From 0.1.0 to the package under test: disks are served on, and what follows their workers takes their rings over."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.xen.guest import Guest
from tests.xen.lab import Lab
from tests.xen.line import wait
from tests.xen.strikes import compare, finished, load, served, strike, verify_until
from tests.xen.xenvbd import TIMEOUT, Xenvbd

INSTALL = "dpkg --force-confold -i /tmp/{}"


@pytest.fixture
def released(lab: Lab, xenvbd: Xenvbd, first_release: Path) -> None:
    """0.1.0 in the place of the package under test, which no disk keeps from being taken back."""
    lab.machine.put(first_release, f"/tmp/{first_release.name}")
    xenvbd.dom0(INSTALL.format(first_release.name), 240)
    assert xenvbd.dom0("xenvbd --version").startswith("xenvbd 0.1.0")


@pytest.mark.short
def test_a_guest_s_disks_outlive_an_upgrade_and_then_the_worker_of_0_1_0(pv: Guest, xenvbd: Xenvbd, released: None,
                                                                         package: Path) -> None:
    images, domid = {vdev: xenvbd.image(vdev) for vdev in ("xvdb", "xvdc")}, pv.domid
    for vdev, image in images.items():
        xenvbd.attach(pv, image, vdev)
    workers = xenvbd.workers()
    verify_until(pv, "/dev/xvdb", "/dev/xvdd")
    load(xenvbd, pv)
    said = xenvbd.dom0(INSTALL.format(package.name), 240)
    assert "workers of 0.1.0-1 serve guests' disks on" in said, said
    assert xenvbd.workers() == workers and served(xenvbd).keys() == images.keys()

    strike(xenvbd, "worker", "xvdb", "xvdc")        # the next is of this version, and goes on with the ring of the last
    followers = xenvbd.workers()
    xenvbd.dom0(f"xenvbd {TIMEOUT} restart --all", 240)
    wait("disks that have moved", lambda: served(xenvbd).keys() == images.keys()
         and not set(xenvbd.workers()) & set(followers), 60)

    finished(xenvbd, pv, "xvdd")
    compare(xenvbd, pv, **images)
    for vdev in (*images, "xvdd"):
        xenvbd.detach(pv, vdev)
    xenvbd.nothing_left(domid, *images.values())
