"""Disks of the kind vbd3, which libxl makes of backendtype=tap since Xen 4.19: XENVBD_SUITE=trixie has Xen 4.20."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.test_routes import claim, use
from tests.xen.xenvbd import Xenvbd

TAP_SINCE = (4, 19)


@pytest.fixture(autouse=True)
def claimed(xenvbd: Xenvbd) -> None:
    """The daemon claims vbd3 and nothing else."""
    version = xenvbd.machine.version()
    if version < TAP_SINCE:
        pytest.skip("xl of Xen {}.{} refuses backendtype=tap; 4.19 is the first to make vbd3 of it".format(*version))
    claim(xenvbd, "vbd3")


def tap(vdev: str, image: str) -> str:
    """xl's words for such a disk."""
    return f"vdev={vdev},format=raw,backendtype=tap,script=block-xenvbd,target={image}"


def area(xenvbd: Xenvbd, domid: int) -> dict[str, str]:
    """The nodes of xvdb's backend area."""
    lines = xenvbd.dom0(f"xenstore-ls -f /local/domain/0/backend/vbd3/{domid}/51728").splitlines()
    return {path.rsplit("/", 1)[1]: value.strip('"') for path, value in (line.split(" = ", 1) for line in lines)}


@pytest.mark.short
def test_xl_plugs_a_disk_in_and_takes_it_away(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.dom0(f"xl block-attach pv '{tap('xvdb', image)}'", 90)
    pv.wait_for("[ -b /dev/xvdb ]")
    nodes = area(xenvbd, domid)
    assert (nodes["type"], nodes["params"], nodes["state"]) == ("vbd3", f"aio:{image}", "4"), nodes
    assert nodes["hotplug-status"] == "connected" and "physical-device-path" not in nodes
    assert pv.run(workload.fio("/dev/xvdb"), 300).split(";")[0] == "0"
    use(pv, xenvbd, "xvdb", image)
    assert f"/local/domain/0/backend/vbd3/{domid}/51728" in xenvbd.dom0("xl block-list pv")
    assert [disk["name"] for disk in xenvbd.disks()] == ["xvdb"]
    xenvbd.dom0("xl block-detach pv xvdb", 60)
    pv.wait_for("[ ! -b /dev/xvdb ]")
    assert "51728" not in xenvbd.dom0("xl block-list pv")
    xenvbd.nothing_left(domid, image)


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_a_guest_is_created_with_such_disks_and_destroyed(
        new_guest: Callable[..., Guest], xenvbd: Xenvbd, kind: str) -> None:
    images = {name: xenvbd.image(name) for name in ("xvda", "xvdb")}
    guest = new_guest("web", 1, kind=kind, disks=tuple(tap(*disk) for disk in images.items()), timeout=400)
    for name, image in images.items():
        use(guest, xenvbd, name, image)
    assert xenvbd.dom0("pgrep -c qemu", check=False) == "0"
    domid = guest.domid
    guest.destroy()
    xenvbd.nothing_left(domid, *images.values())


def test_a_guest_reboots_and_finds_its_data(new_guest: Callable[..., Guest], xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    guest = new_guest("web", 1, disks=(tap("xvda", image),))
    first, written = guest.domid, guest.run(workload.written("/dev/xvda", 8), 120)
    guest.line.clear()
    xenvbd.dom0("xl reboot web")
    wait("another domain of that name", lambda: xenvbd.dom0("xl domid web 2>/dev/null", check=False)
         not in ("", str(first)), 120)
    guest.follow()
    guest.shell.sync(180)
    guest.wait_for("[ -b /dev/xvda ]")
    assert guest.run("sha256sum /dev/xvda", 120) == written
    assert xenvbd.nodes(first) == ""
    second = guest.domid
    guest.destroy()
    guest.wait_for_end(second)
    xenvbd.nothing_left(second, image)


def test_beside_a_disk_of_the_kernels(pv: Guest, xenvbd: Xenvbd) -> None:
    """xen-blkback may be loaded: it has the kind vbd, not vbd3."""
    images = {name: xenvbd.image(name, "16M") for name in ("xvdb", "xvdc")}
    xenvbd.dom0(f"modprobe xen-blkback; losetup /dev/loop0 {images['xvdc']}")
    xenvbd.dom0(f"xl block-attach pv '{tap('xvdb', images['xvdb'])}'; "
                "xl block-attach pv vdev=xvdc,format=raw,backendtype=phy,target=/dev/loop0", 120)
    for name in images:
        pv.wait_for(f"[ -b /dev/{name} ]")
        pv.run(workload.written(f"/dev/{name}", 16), 120)
    assert [disk["name"] for disk in xenvbd.disks()] == ["xvdb"]
    xenvbd.dom0("xl block-detach pv xvdb", 60)
    assert pv.run("ls /sys/block").split() == ["xvdc"]


def test_what_cannot_be_served_fails_and_the_reason_is_there(pv: Guest, xenvbd: Xenvbd) -> None:
    domid = pv.domid
    said = xenvbd.dom0(f"xl block-attach pv '{tap('xvdb', '/srv/missing.img')}' 2>&1; echo status $?", 120)
    assert "status 0" not in said
    assert "missing.img" in area(xenvbd, domid)["hotplug-error"]
    assert "missing.img" in xenvbd.dom0("xenvbd explain pv:xvdb", check=False)
    assert pv.run("ls /sys/block") == ""
    xenvbd.dom0("xl block-detach pv xvdb", 60, check=False)
    xenvbd.nothing_left(domid)
