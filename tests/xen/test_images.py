"""An image is what was opened: a device that is another by now is not taken for it, one that has grown is served."""
from __future__ import annotations

from collections.abc import Callable

from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

UNBIND = "echo vbd-51728 >/sys/bus/xen/drivers/vbd/unbind"
NO_QEMU = 'device_model_override="/usr/lib/xenvbd/xenvbd-dm"'
# There is no udev to wait for: LVM makes its nodes itself.
LVM = "--config 'activation{udev_sync=0 udev_rules=0}'"


def labelled(xenvbd: Xenvbd, name: str) -> str:
    """An image that says its name."""
    image = xenvbd.image(name, "8M")
    xenvbd.dom0(f"echo {name} | dd of={image} conv=notrunc 2>/dev/null")
    return image


def test_a_loop_device_cannot_be_given_another_image_while_its_guest_has_closed_it(pv: Guest, xenvbd: Xenvbd) -> None:
    """The claim keeps it, so it is the same at the next connection.  (Linux's blkfront makes none itself.)"""
    one, other, domid = labelled(xenvbd, "one"), labelled(xenvbd, "other"), pv.domid
    xenvbd.dom0(f"losetup /dev/loop0 {one}")
    xenvbd.attach(pv, "/dev/loop0", "xvdb")
    assert pv.run("head -n 1 /dev/xvdb") == "one"
    pv.run(UNBIND)
    wait("a closed disk", lambda: xenvbd.disks()[0]["state"]["backend"] == "Closed", 30)
    said = xenvbd.dom0(f"losetup -d /dev/loop0; losetup /dev/loop0 {other}; losetup /dev/loop0", check=False)
    assert "busy" in said and one in said.splitlines()[-1], said
    xenvbd.detach(pv, "xvdb", "--force")
    xenvbd.nothing_left(domid, one, other)


def test_a_loop_device_that_got_another_image_while_no_daemon_ran_is_not_served(pv: Guest, xenvbd: Xenvbd) -> None:
    one, other, domid = labelled(xenvbd, "one"), labelled(xenvbd, "other"), pv.domid
    xenvbd.dom0(f"losetup /dev/loop0 {one}")
    xenvbd.attach(pv, "/dev/loop0", "xvdb")
    worker, = xenvbd.workers()
    xenvbd.service("stop")
    xenvbd.dom0(f"kill -9 {worker}")
    wait("a loop device that nobody has", lambda: not xenvbd.dom0(
        f"losetup -d /dev/loop0; losetup /dev/loop0 {other}", check=False), 30)
    before = xenvbd.checksum(other)
    pv.shell.start("echo late | dd of=/dev/xvdb bs=4k conv=sync oflag=direct 2>/dev/null; head -n 1 /dev/xvdb")
    xenvbd.service("start")
    wait("a disk that is stopped", lambda: "not the image that was opened" in xenvbd.dom0(
        "xenvbd explain pv:xvdb", check=False), 60)
    assert xenvbd.checksum(other) == before, "a write that was meant for one"

    # The admin brings back what it was, and says so.
    xenvbd.dom0(f"losetup -d /dev/loop0; losetup /dev/loop0 {one}")
    xenvbd.dom0("xenvbd resume pv:xvdb --same-content")
    assert pv.shell.finish(120) == "late" == xenvbd.dom0(f"head -n 1 {one}")
    assert xenvbd.checksum(other) == before
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, one, other)


def test_a_logical_volume_that_has_grown_is_larger_after_the_guest_s_reboot(new_guest: Callable[..., Guest],
                                                                           xenvbd: Xenvbd) -> None:
    """A Debian's root; it is told of the new size with its next connection, and its file system grows into it."""
    xenvbd.dom0("modprobe dm-mod; truncate -s 1536M /srv/pv.img; losetup /dev/loop0 /srv/pv.img; "
                f"pvcreate -q {LVM} /dev/loop0; vgcreate -q {LVM} vg /dev/loop0; lvcreate -q {LVM} -L 1G -n root vg; "
                "dd if=/guest/debian.img of=/dev/vg/root bs=1M conv=sparse 2>/dev/null", 600)
    guest = new_guest("debian", 1, disks=("vdev=xvda,format=raw,backendtype=qdisk,target=/dev/vg/root",), extra=NO_QEMU,
                      memory=256, arguments="testroot=/dev/xvda", timeout=400)
    assert guest.run("cat /sys/block/xvda/size") == str(1 << 21)
    xenvbd.dom0(f"lvextend {LVM} -L +128M vg/root", 120)
    guest.run("echo kept >/root/file; sync", 60)
    assert guest.run("cat /sys/block/xvda/size") == str(1 << 21)

    domid = guest.domid
    guest.line.send("sync; echo u >/proc/sysrq-trigger; sleep 2; echo b >/proc/sysrq-trigger\n")
    wait("another domain of that name",
         lambda: xenvbd.dom0("xl domid debian 2>/dev/null", check=False) not in ("", str(domid)), 240)
    guest.follow()
    guest.shell.sync(400)
    assert guest.run("cat /sys/block/xvda/size; cat /root/file").split() == [str((1 << 21) + (1 << 18)), "kept"]
    guest.run("resize2fs /dev/xvda", 240)
    assert int(guest.run("df -k / | tail -1 | tr -s ' ' | cut -d' ' -f2")) > 1 << 20
    domid = guest.domid
    guest.run("mount -o remount,ro /", 60)
    guest.destroy()
    xenvbd.nothing_left(domid)
    xenvbd.dom0("e2fsck -fn /dev/vg/root", 240)
