"""Data by every shape of request arrives, and what a flush, a discard and the disk's end promise holds."""
from __future__ import annotations

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd


def compare(guest: Guest, xenvbd: Xenvbd, vdev: str, image: str) -> None:
    """The image, read behind the backend's back, holds what the guest's disk does."""
    assert guest.run(f"sync; sha256sum /dev/{vdev}", 120).split()[0] == xenvbd.checksum(image)


def fill(guest: Guest, xenvbd: Xenvbd, vdev: str, depth: int) -> None:
    """fio with verification at mixed block sizes: no error, and no complaint from the kernel."""
    assert guest.run(workload.fio(f"/dev/{vdev}", "8M", depth), 400).split(";")[0] == "0"
    assert guest.run("dmesg | grep -iE 'I/O error|disabled for further use' || true") == ""


@pytest.mark.parametrize("depth", [1, 4, 32, 128])
def test_fio_verifies_mixed_block_sizes_at_every_depth(depth: int, pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb")
    fill(pv, xenvbd, "xvdb", depth)
    compare(pv, xenvbd, "xvdb", image)


@pytest.mark.parametrize("options", ["--persistent", "--persistent --no-direct", "--no-direct", "--ring-page-order 0",
                                     "--sector-size 4096", "--poll-us 50"])
def test_fio_verifies_a_disk_with_options(options: str, pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb", options)
    if "4096" in options:
        command = workload.fio("/dev/xvdb", "8M", 16).replace("512-128k", "4k-128k").replace("=512", "=4k")
        assert pv.run(command, 400).split(";")[0] == "0"
    else:
        fill(pv, xenvbd, "xvdb", 16)
    compare(pv, xenvbd, "xvdb", image)
    if options == "--persistent --no-direct":
        assert xenvbd.show(pv, "xvdb")["stats"]["grants-kept"] > 0


def test_fio_verifies_a_disk_of_a_pvh_guest(pvh: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pvh, image, "xvdb")
    fill(pvh, xenvbd, "xvdb", 32)
    pvh.run(workload.file_system("/dev/xvdb"), 300)
    compare(pvh, xenvbd, "xvdb", image)


def test_discard_frees_blocks_of_the_image(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb")
    pv.run("/bin/mke2fs -q -E nodiscard /dev/xvdb; mount /dev/xvdb /mnt; "
           "dd if=/dev/urandom of=/mnt/f bs=1M count=32 2>/dev/null; sync", 90)
    full = int(xenvbd.dom0(f"sync {image}; stat -c %b {image}")) * 512
    assert full > 32 << 20
    pv.run("rm /mnt/f; sync; fstrim /mnt; umount /mnt", 60)
    assert int(xenvbd.dom0(f"stat -c %b {image}")) * 512 < full - (24 << 20)
    assert xenvbd.show(pv, "xvdb")["stats"]["discard"]["ops"] > 0
    pv.run("/bin/e2fsck -fn /dev/xvdb")
    compare(pv, xenvbd, "xvdb", image)


def on_the_medium(xenvbd: Xenvbd, image: str, word: str) -> bool:
    """Whether dom0's disk holds the word in this image: read from the device, past the file's page cache."""
    return xenvbd.dom0(f"debugfs -D -R 'cat {image}' /dev/vda 2>/dev/null | grep -a -c {word}", check=False) != "0"


def test_a_flush_brings_what_was_written_to_the_medium(pv: Guest, xenvbd: Xenvbd) -> None:
    image = "/srv/web.img"
    # Nothing goes to the disk by itself, and the image's blocks are there.
    xenvbd.dom0(f"echo 0 >/proc/sys/vm/dirty_writeback_centisecs; dd if=/dev/zero of={image} bs=1M count=8 conv=fsync "
                "2>/dev/null; sync")
    xenvbd.attach(pv, image, "xvdb", "--no-direct")
    pv.run("printf '%-4096s' unflushed >/tmp/a; dd if=/tmp/a of=/dev/xvdb bs=4k oflag=direct conv=notrunc 2>/dev/null")
    assert "unflushed" in xenvbd.dom0(f"head -c 20 {image}")
    assert not on_the_medium(xenvbd, image, "unflushed")
    flushed = xenvbd.show(pv, "xvdb")["stats"]["flush"]["ops"]
    pv.run("printf '%-4096s' flushed-too >/tmp/b; "
           "dd if=/tmp/b of=/dev/xvdb bs=4k seek=9 conv=notrunc,fsync 2>/dev/null")
    assert xenvbd.show(pv, "xvdb")["stats"]["flush"]["ops"] > flushed
    assert on_the_medium(xenvbd, image, "unflushed") and on_the_medium(xenvbd, image, "flushed-too")


def test_an_image_of_odd_size_is_served_to_its_last_sector(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web", str((8 << 20) + 512))
    xenvbd.attach(pv, image, "xvdb")
    assert pv.run("cat /sys/block/xvdb/size") == str((16 << 10) + 1)
    assert pv.run("cat /sys/block/xvdb/queue/physical_block_size") == "512"
    pv.run("printf '%-512s' last >/tmp/a; dd if=/tmp/a of=/dev/xvdb bs=512 seek=16384 oflag=direct conv=notrunc")
    assert xenvbd.dom0(f"tail -c 512 {image} | head -c 4") == "last"
    compare(pv, xenvbd, "xvdb", image)

    xenvbd.dom0("truncate -s 1000 /srv/odd.img")
    said = xenvbd.dom0("xenvbd attach pv /srv/odd.img xvdc; echo status $?", 90)
    assert "/srv/odd.img has 1000 bytes: expected a multiple of" in said and "status 0" not in said
    assert [disk["name"] for disk in xenvbd.disks()] == ["xvdb"]


def test_several_disks_of_one_guest_at_once(pv: Guest, xenvbd: Xenvbd) -> None:
    names = [f"xvd{letter}" for letter in "bcde"]
    images = {name: xenvbd.image(name, "16M") for name in names}
    for name in names:
        xenvbd.attach(pv, images[name], name)
    writes = " ".join(f"dd if=/dev/urandom of=/dev/{name} bs=64k count=256 2>/dev/null &" for name in names)
    pv.run(f"{writes} wait; sync", 120)
    for name in names:
        compare(pv, xenvbd, name, images[name])
    assert len({disk["pid"] for disk in xenvbd.disks()}) == 1


@pytest.mark.short
def test_a_disk_that_was_busy_and_then_idle_is_served_on(pv: Guest, xenvbd: Xenvbd) -> None:
    """A thousand requests make the backend pin its buffers; after ten idle seconds it gives them back."""
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    for _ in range(2):
        pv.run("dd if=/dev/xvdb of=/dev/null bs=4k count=1500 iflag=direct 2>/dev/null; sleep 15", 120)
        pv.run("dd if=/dev/urandom of=/dev/xvdb bs=4k count=1 oflag=direct 2>/dev/null", 30)
    compare(pv, xenvbd, "xvdb", image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)
