"""Guests come and go: disks there before the guest runs, a guest that is destroyed, a daemon that is restarted."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_a_guest_finds_the_disk_that_was_attached_before_it_ran(kind: str, new_guest: Callable[..., Guest],
                                                                xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    guest = new_guest("web", 1, kind=kind, paused=True)
    xenvbd.attach(guest, image, "xvda", "--no-wait")
    guest.unpause()
    guest.run(workload.file_system("/dev/xvda"), 120)
    assert guest.run("sync; sha256sum /dev/xvda").split()[0] == xenvbd.checksum(image)

    domid = guest.domid
    guest.shell.start("while true; do dd if=/dev/zero of=/dev/xvda bs=64k 2>/dev/null; done")
    guest.destroy()
    xenvbd.nothing_left(domid, image)


def test_a_disk_is_served_on_while_the_daemon_is_restarted(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    worker = xenvbd.workers()
    pv.shell.start(workload.fio("/dev/xvdb", "16M"))

    assert xenvbd.status() == 0
    xenvbd.service("reload")
    xenvbd.service("stop")
    assert xenvbd.status() == 3
    assert "daemon" in xenvbd.dom0("xenvbd list; [ $? = 5 ]")
    xenvbd.service("start")
    assert xenvbd.status() == 0
    xenvbd.service("restart")
    xenvbd.service("force-reload")

    assert pv.shell.finish(300).split(";")[0] == "0"
    assert [disk["disk"] for disk in xenvbd.disks()] == ["pv:xvdb"]
    assert xenvbd.workers() == worker
    assert pv.run("sync; sha256sum /dev/xvdb").split()[0] == xenvbd.checksum(image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)
