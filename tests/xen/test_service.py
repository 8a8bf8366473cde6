"""The daemon is stopped, started, restarted and told to read its configuration again, while a guest is at work."""
from __future__ import annotations

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

NOT_RUNNING, NO_DAEMON = 3, 5


@pytest.mark.short
def test_a_disk_is_served_on_while_the_daemon_is_restarted(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    worker = xenvbd.workers()
    pv.shell.start(workload.fio("/dev/xvdb", "8M"))
    xenvbd.service("restart")
    assert xenvbd.workers() == worker
    assert pv.shell.finish(300).split(";")[0] == "0"
    assert pv.run("sync; sha256sum /dev/xvdb").split()[0] == xenvbd.checksum(image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)


def test_a_disk_is_served_on_through_every_verb_of_the_init_script(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    worker = xenvbd.workers()
    pv.shell.start(workload.fio("/dev/xvdb", "16M"))

    assert xenvbd.status() == 0
    xenvbd.service("start")                     # it runs: nothing to do
    xenvbd.service("reload")
    xenvbd.service("stop")
    assert xenvbd.status() == NOT_RUNNING
    assert f"status {NO_DAEMON}" in xenvbd.dom0("xenvbd list; echo status $?")
    xenvbd.service("start")
    assert xenvbd.status() == 0
    for verb in ("restart", "force-reload", "try-restart"):
        xenvbd.service(verb)
        assert xenvbd.status() == 0

    assert pv.shell.finish(300).split(";")[0] == "0"
    assert [disk["disk"] for disk in xenvbd.disks()] == ["pv:xvdb"]
    assert xenvbd.workers() == worker
    assert pv.run("sync; sha256sum /dev/xvdb").split()[0] == xenvbd.checksum(image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)


def test_a_configuration_that_cannot_be_read_stops_nothing(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb")
    xenvbd.dom0("cp /etc/xenvbd/xenvbd.toml /root/; echo 'kinds = 7' >>/etc/xenvbd/xenvbd.toml")
    for verb in ("reload", "restart"):
        said = xenvbd.dom0(f"/etc/init.d/xenvbd {verb}; echo status $?", 60)
        assert said.endswith("status 6") and "xenvbd.toml" in said
    assert xenvbd.status() == 0
    assert pv.run(workload.written("/dev/xvdb", 1)).split()[0] == xenvbd.checksum(image)


def test_a_guest_that_dies_while_no_daemon_runs_is_cleaned_up_by_the_next(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    xenvbd.service("stop")
    pv.destroy()
    xenvbd.service("start")
    pv.wait_for_end(domid)
    xenvbd.nothing_left(domid, image)


def test_a_guest_that_closes_its_disk_while_no_daemon_runs_is_answered_by_the_next(pv: Guest, xenvbd: Xenvbd) -> None:
    """xl asks the guest, which closes at once and keeps a dead disk of no size until its node goes; and xl gives up,
    because nobody answers the guest."""
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    inside = pv.run(workload.written("/dev/xvdb", 1)).split()[0]
    xenvbd.service("stop")
    assert not xenvbd.dom0("xl block-detach pv xvdb; echo status $?", 90).endswith("status 0")
    assert pv.run("cat /sys/block/xvdb/size") == "0"
    assert len(xenvbd.workers()) == 1 and xenvbd.locked(image)
    xenvbd.service("start")
    xenvbd.nothing_left(domid, image)
    pv.wait_for("[ ! -b /dev/xvdb ]")
    assert xenvbd.checksum(image) == inside
