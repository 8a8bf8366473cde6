"""Disks that xl makes, by each route, and xenvbd beside the kernel's and QEMU's backends in the same guest."""
from __future__ import annotations

from collections.abc import Callable

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

Maker = Callable[..., Guest]
NO_QEMU = 'device_model_override="/usr/lib/xenvbd/xenvbd-dm"'


def claim(xenvbd: Xenvbd, kind: str) -> None:
    """Claim one kind only."""
    xenvbd.dom0(f"""sed -i 's/^kinds = .*/kinds = ["{kind}"]/' /etc/xenvbd/xenvbd.toml""")
    xenvbd.service("reload")


def use(guest: Guest, xenvbd: Xenvbd, vdev: str, image: str) -> None:
    """ext4 on it; the image holds what the guest's disk does."""
    guest.run(workload.file_system(f"/dev/{vdev}"), 300)
    assert guest.run(f"sync; sha256sum /dev/{vdev}", 120).split()[0] == xenvbd.checksum(image)


def test_xl_create_with_disk_lines_and_no_qemu(new_guest: Maker, xenvbd: Xenvbd) -> None:
    images = {name: xenvbd.image(name) for name in ("xvda", "xvdb")}
    guest = new_guest("web", 1, extra=NO_QEMU, disks=tuple(
        f"vdev={name},format=raw,backendtype=qdisk,target={image}" for name, image in images.items()))
    for name, image in images.items():
        use(guest, xenvbd, name, image)
    assert xenvbd.dom0("pgrep -c qemu", check=False) == "0"
    domid = guest.domid
    guest.destroy()
    for image in images.values():
        xenvbd.nothing_left(domid, image)
    assert xenvbd.dom0("pgrep -f '[x]envbd-dm'", check=False) == ""


def test_xl_create_of_a_pvh_guest_with_a_disk_line(new_guest: Maker, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    guest = new_guest("web", 1, kind="pvh", extra=NO_QEMU,
                      disks=(f"vdev=xvda,format=raw,backendtype=qdisk,target={image}",), timeout=400)
    use(guest, xenvbd, "xvda", image)
    assert xenvbd.dom0("pgrep -c qemu", check=False) == "0"


def test_xl_create_fails_with_the_reason_if_a_disk_cannot_be_opened(new_guest: Maker, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("cat >/tmp/web.cfg <<'EOF'\n" + "\n".join([
        'name="web"', 'type="pv"', "memory=160", 'kernel="/guest/vmlinuz"', 'ramdisk="/guest/small.img"', NO_QEMU,
        "disk=['vdev=xvda,format=raw,backendtype=qdisk,target=/srv/missing.img']"]) + "\nEOF")
    said = xenvbd.dom0("xl create -q /tmp/web.cfg; echo status $?", 240)
    assert "status 0" not in said
    assert "/srv/missing.img" in xenvbd.dom0("cat /var/log/xen/qemu-dm-web.log")
    assert xenvbd.dom0("xl list | grep -c web", check=False) == "0"
    assert xenvbd.disks() == []


def test_xl_plugs_a_disk_into_a_pvh_guest(pvh: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pvh.domid
    xenvbd.dom0(f"xl block-attach pvh vdev=xvdb,backendtype=qdisk,format=raw,target={image}", 90)
    pvh.wait_for("[ -b /dev/xvdb ]")
    use(pvh, xenvbd, "xvdb", image)
    xenvbd.dom0("xl block-detach pvh xvdb", 60)
    xenvbd.nothing_left(domid, image)


def test_the_hotplug_script_where_blkback_is_not_loaded(pv: Guest, xenvbd: Xenvbd) -> None:
    claim(xenvbd, "vbd")
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.dom0(f"xl block-attach pv vdev=xvdb,format=raw,backendtype=phy,script=block-xenvbd,target={image}", 90)
    pv.wait_for("[ -b /dev/xvdb ]")
    use(pv, xenvbd, "xvdb", image)
    xenvbd.dom0("xl block-detach pv xvdb", 60)
    xenvbd.nothing_left(domid, image)


def test_the_hotplug_script_at_xl_create(new_guest: Maker, xenvbd: Xenvbd) -> None:
    claim(xenvbd, "vbd")
    image = xenvbd.image("web")
    guest = new_guest("web", 1, disks=(f"vdev=xvda,format=raw,backendtype=phy,script=block-xenvbd,target={image}",))
    use(guest, xenvbd, "xvda", image)
    domid = guest.domid
    guest.destroy()
    xenvbd.nothing_left(domid, image)


def test_a_kind_that_the_kernel_has_is_refused_by_name(pv: Guest, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("modprobe xen-blkback; "
                """sed -i 's/^kinds = .*/kinds = ["vbd"]/' /etc/xenvbd/xenvbd.toml""")
    xenvbd.service("stop")
    assert "xen-blkback" in xenvbd.dom0("timeout 60 xenvbd serve 2>&1; [ $? = 7 ]", 90)
    assert "xen-blkback" in xenvbd.dom0("xenvbd doctor", check=False)


def test_beside_blkback_and_qemu_in_one_guest(new_guest: Maker, xenvbd: Xenvbd) -> None:
    claim(xenvbd, "vbd3")
    images = {name: xenvbd.image(name, "16M") for name in ("xvdb", "xvdc", "xvdd")}
    xenvbd.dom0(f"modprobe xen-blkback; losetup /dev/loop0 {images['xvdc']}")
    guest = new_guest("web", 1, timeout=400, disks=(
        "vdev=xvdc,format=raw,backendtype=phy,target=/dev/loop0",
        f"vdev=xvdd,format=raw,backendtype=qdisk,target={images['xvdd']}"))
    xenvbd.attach(guest, images["xvdb"], "xvdb")
    for name in images:
        guest.run(f"dd if=/dev/urandom of=/dev/{name} bs=64k count=256 2>/dev/null; sync", 120)
    for name, image in images.items():
        xenvbd.dom0(f"sync; blockdev --flushbufs /dev/loop0; echo 1 >/proc/sys/vm/drop_caches; ls -l {image}")
        assert guest.run(f"sha256sum /dev/{name}").split()[0] == xenvbd.checksum(image)
    assert [disk["name"] for disk in xenvbd.disks()] == ["xvdb"]
    xenvbd.detach(guest, "xvdb")
    guest.wait_for("[ ! -e /sys/block/xvdb ]")
    assert guest.run("ls /sys/block").split() == ["xvdc", "xvdd"]


def test_a_disk_that_qemu_serves_already_is_left_to_it(new_guest: Maker, xenvbd: Xenvbd) -> None:
    images = {name: xenvbd.image(name) for name in ("xvda", "xvdb")}
    xenvbd.service("stop")
    guest = new_guest("web", 1, disks=(f"vdev=xvda,format=raw,backendtype=qdisk,target={images['xvda']}",), timeout=400)
    xenvbd.service("start")
    assert xenvbd.disks() == []
    assert "QEMU" in xenvbd.dom0("xenvbd explain web:xvda", check=False)
    xenvbd.dom0(f"xl block-attach web vdev=xvdb,format=raw,backendtype=qdisk,target={images['xvdb']}", 90)
    guest.wait_for("[ -b /dev/xvdb ]")
    assert xenvbd.disks() == []
    for name, image in images.items():
        use(guest, xenvbd, name, image)
