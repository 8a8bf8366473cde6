"""xl migrate to the same host: for a moment two domains of one VM have one image, and one of them writes to it.

PVH: live migration of a PV guest fails in this machine, where Xen does not log dirty pages of one (EINVAL)."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

NO_QEMU = 'device_model_override="/usr/lib/xenvbd/xenvbd-dm"'
# Without ssh, what would be run on the other host.
MIGRATE = "xl migrate -p -s '' web 'xl migrate-receive -p' >/tmp/migrate 2>&1; echo status $?; cat /tmp/migrate"


class Moving:
    """A guest with a disk that is to move."""

    def __init__(self, new_guest: Callable[..., Guest], xenvbd: Xenvbd):
        self.xenvbd, self.image = xenvbd, xenvbd.image("web")
        disk = f"vdev=xvda,format=raw,backendtype=qdisk,target={self.image}"
        self.guest = new_guest("web", 1, kind="pvh", disks=(disk,), extra=NO_QEMU, timeout=400)
        self.first = self.guest.domid
        self.inside = self.guest.run(workload.written("/dev/xvda", 8))
        self.guest.run("echo 3 >/proc/sys/vm/drop_caches")

    def domid(self, name: str) -> str:
        """Of the domain of this name; "" if there is none."""
        return self.xenvbd.dom0(f"xl domid {name} 2>/dev/null", check=False)

    def works(self) -> None:
        """It finds what it wrote, writes more, and that is in the image."""
        assert self.guest.run("sha256sum /dev/xvda", 120) == self.inside
        self.guest.run(workload.file_system("/dev/xvda"), 240)
        assert self.guest.run("sync; sha256sum /dev/xvda").split()[0] == self.xenvbd.checksum(self.image)
        assert self.guest.run("dmesg | grep -E 'I/O error|disabled for further use' || true") == ""


@pytest.fixture
def moving(new_guest: Callable[..., Guest], xenvbd: Xenvbd) -> Moving:
    return Moving(new_guest, xenvbd)


def test_a_guest_migrates_to_the_same_host(moving: Moving, xenvbd: Xenvbd) -> None:
    said = xenvbd.dom0(MIGRATE, 600)
    assert said.startswith("status 0"), said
    assert moving.guest.domid != moving.first
    moving.guest.follow()
    xenvbd.dom0("xl unpause web")
    moving.guest.shell.sync(120)
    moving.works()
    assert xenvbd.nodes(moving.first) == ""
    second = moving.guest.domid
    moving.guest.destroy()
    moving.guest.wait_for_end(second)
    xenvbd.nothing_left(second, moving.image)


def test_a_manager_that_is_killed_when_the_second_domain_is_there_loses_nothing(moving: Moving, xenvbd: Xenvbd) -> None:
    """The guest is at the one end or at the other: without a daemon xenvbd-dm fails the start of the second."""
    said = xenvbd.dom0("(until xl domid web--incoming; do :; done; kill -9 $(cat /run/xenvbd/manager.lock); sleep 1; "
                       f"/etc/init.d/xenvbd start) >/dev/null 2>&1 & {MIGRATE}", 900)
    if said.startswith("status 0"):
        moving.guest.follow()
        xenvbd.dom0("xl unpause web")
    else:
        assert "resuming at sender" in said and moving.domid("web") == str(moving.first), said
    moving.guest.shell.sync(120)
    moving.works()


def test_a_guest_goes_on_where_it_was_when_the_domain_it_migrates_to_dies_before_it_runs(moving: Moving,
                                                                                         xenvbd: Xenvbd) -> None:
    said = xenvbd.dom0("(until xl domid web--incoming; do :; done; sleep 1; xl destroy web--incoming) "
                       f">/dev/null 2>&1 & {MIGRATE}", 600)
    assert not said.startswith("status 0") and "logdirty" not in said, said
    assert moving.domid("web") == str(moving.first)
    moving.guest.shell.sync(120)
    moving.works()


def test_a_guest_that_dies_after_it_has_migrated_leaves_its_image(moving: Moving, xenvbd: Xenvbd) -> None:
    assert xenvbd.dom0(MIGRATE, 600).startswith("status 0")
    second = moving.guest.domid
    xenvbd.dom0("xl unpause web; xl destroy web")
    wait("the end of both", lambda: not moving.domid("web"), 60)
    xenvbd.nothing_left(second, moving.image)
    assert xenvbd.checksum(moving.image) == moving.inside.split()[0]
