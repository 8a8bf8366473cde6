"""Disks that xl makes, by each route, and xenvbd beside the kernel's and QEMU's backends in the same guest."""
from __future__ import annotations

from collections.abc import Callable

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

Maker = Callable[..., Guest]


def test_xl_create_with_a_disk_line_and_no_qemu(new_guest: Maker, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    guest = new_guest("web", 1, disks=(f"vdev=xvda,format=raw,backendtype=qdisk,target={image}",),
                      extra='device_model_override="/usr/lib/xenvbd/xenvbd-dm"')
    guest.run(workload.file_system("/dev/xvda"), 120)
    assert guest.run("sync; sha256sum /dev/xvda").split()[0] == xenvbd.checksum(image)
    assert xenvbd.dom0("pgrep -c qemu", check=False) == "0"
    domid = guest.domid
    guest.destroy()
    xenvbd.nothing_left(domid, image)


def test_the_hotplug_script_where_blkback_is_not_loaded(pv: Guest, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("""sed -i 's/^kinds = .*/kinds = ["vbd"]/' /etc/xenvbd/xenvbd.toml""")
    xenvbd.service("reload")
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.dom0(f"xl block-attach pv vdev=xvdb,format=raw,backendtype=phy,script=block-xenvbd,target={image}", 90)
    pv.wait_for("[ -b /dev/xvdb ]")
    pv.run(workload.file_system("/dev/xvdb"), 120)
    assert pv.run("sync; sha256sum /dev/xvdb").split()[0] == xenvbd.checksum(image)
    xenvbd.dom0("xl block-detach pv xvdb", 60)
    xenvbd.nothing_left(domid, image)


def test_beside_blkback_and_qemu_in_one_guest(new_guest: Maker, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("""sed -i 's/^kinds = .*/kinds = ["vbd3"]/' /etc/xenvbd/xenvbd.toml""")
    xenvbd.service("restart")
    images = {name: xenvbd.image(name, "16M") for name in ("xvdb", "xvdc", "xvdd")}
    xenvbd.dom0(f"modprobe xen-blkback; losetup /dev/loop0 {images['xvdc']}")
    guest = new_guest("web", 1, disks=("vdev=xvdc,format=raw,backendtype=phy,target=/dev/loop0",
                                       f"vdev=xvdd,format=raw,backendtype=qdisk,target={images['xvdd']}"))
    xenvbd.attach(guest, images["xvdb"], "xvdb")
    for name in images:
        guest.run(f"dd if=/dev/urandom of=/dev/{name} bs=64k count=256 2>/dev/null; sync")
    xenvbd.dom0("sync")
    for name, image in images.items():
        assert guest.run(f"sha256sum /dev/{name}").split()[0] == xenvbd.checksum(image)
    assert [disk["name"] for disk in xenvbd.disks()] == ["xvdb"]
