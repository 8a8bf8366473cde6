"""Guests that change their names, and names that go to another guest: a disk stays its guest's."""
from __future__ import annotations

from collections.abc import Callable

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd


def test_a_name_that_went_to_another_guest_takes_that_guest_s_disk(pv: Guest, new_guest: Callable[..., Guest],
                                                                   xenvbd: Xenvbd) -> None:
    first, second = xenvbd.image("first"), xenvbd.image("second")
    xenvbd.attach(pv, first, "xvdb")
    xenvbd.dom0("xl rename pv before")
    assert [disk["disk"] for disk in xenvbd.disks()] == ["before:xvdb"]
    other = new_guest("pv", 2)
    xenvbd.attach(other, second, "xvdb")
    assert {disk["disk"]: disk["domid"] for disk in xenvbd.disks()} == {
        "before:xvdb": int(xenvbd.dom0("xl domid before")), "pv:xvdb": other.domid}

    xenvbd.detach(other, "xvdb", "--force")         # by that name
    other.wait_for("[ ! -b /dev/xvdb ]")
    assert not xenvbd.locked(second) and xenvbd.locked(first)
    pv.name = "before"
    assert pv.run(workload.written("/dev/xvdb", 2)).split()[0] == xenvbd.checksum(first)
    assert "before:xvdb" in xenvbd.dom0("xenvbd explain before:xvdb")
    domid = pv.domid
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, first, second)
