"""The stock blkfront's own switches and the shapes a disk can have; each boots a guest or plugs disks into one."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

Maker = Callable[..., Guest]


def boot(new_guest: Maker, xenvbd: Xenvbd, arguments: str, options: str = "") -> Guest:
    """A guest with a disk and blkfront's arguments; the disk is filled, read back and compared outside."""
    image = xenvbd.image("web")
    guest = new_guest("web", 1, paused=True, arguments=arguments)
    xenvbd.attach(guest, image, "xvda", f"--no-wait {options}")
    guest.unpause()
    guest.run(workload.file_system("/dev/xvda"), 120)
    assert guest.run("sync; sha256sum /dev/xvda").split()[0] == xenvbd.checksum(image)
    return guest


@pytest.mark.parametrize("order", range(5))
def test_rings_of_every_size(order: int, new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest = boot(new_guest, xenvbd, f"xen_blkfront.max_ring_page_order={order}")
    assert xenvbd.show(guest, "xvda")["ring-page-order"] == order


@pytest.mark.parametrize("segments", [1, 32, 256])
def test_indirect_requests_of_several_sizes(segments: int, new_guest: Maker, xenvbd: Xenvbd) -> None:
    boot(new_guest, xenvbd, f"xen_blkfront.max_indirect_segments={segments}")


@pytest.mark.parametrize("queues", [1, 2, 4])
def test_a_frontend_that_would_use_several_queues(queues: int, new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest = boot(new_guest, xenvbd, f"xen_blkfront.max_queues={queues}")
    assert xenvbd.show(guest, "xvda")["queues"] == 1


def test_sectors_of_4096_bytes(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb", "--physical-sector-size 4096")
    assert pv.run("cd /sys/block/xvdb/queue; cat physical_block_size logical_block_size") == "4096\n512"
    pv.run(workload.file_system("/dev/xvdb"), 120)
    xenvbd.detach(pv, "xvdb")
    xenvbd.attach(pv, image, "xvdc", "--sector-size 4096")
    assert pv.run("cd /sys/block/xvdc; cat queue/logical_block_size size").split() == ["4096", str(64 * 2048)]
    pv.run(workload.file_system("/dev/xvdc"), 120)
    assert pv.run("sync; sha256sum /dev/xvdc").split()[0] == xenvbd.checksum(image)


def test_a_cdrom(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("medium", "4M")
    xenvbd.dom0(f"dd if=/dev/urandom of={image} bs=1M count=4 conv=notrunc 2>/dev/null")
    xenvbd.attach(pv, image, "xvdc", "--cdrom")
    assert pv.run("cat /sys/block/xvdc/ro") == "1"
    assert pv.run("sha256sum /dev/xvdc").split()[0] == xenvbd.checksum(image)


def test_several_disks_of_one_guest_at_once(pv: Guest, xenvbd: Xenvbd) -> None:
    names = [f"xvd{letter}" for letter in "bcde"]
    images = {name: xenvbd.image(name, "16M") for name in names}
    for name in names:
        xenvbd.attach(pv, images[name], name)
    writes = " ".join(f"dd if=/dev/urandom of=/dev/{name} bs=64k count=256 2>/dev/null &" for name in names)
    pv.run(f"{writes} wait; sync", 120)
    for name in names:
        assert pv.run(f"sha256sum /dev/{name}").split()[0] == xenvbd.checksum(images[name])
    assert len(xenvbd.workers()) == 1


def test_discard_frees_blocks_and_a_flush_reaches_the_image(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb")
    pv.run("/bin/mke2fs -q -E nodiscard /dev/xvdb; mount /dev/xvdb /mnt; "
           "dd if=/dev/urandom of=/mnt/f bs=1M count=32 2>/dev/null; sync", 90)
    full = int(xenvbd.dom0(f"sync {image}; stat -c %b {image}"))
    assert full * 512 > 32 << 20
    pv.run("rm /mnt/f; sync; fstrim /mnt", 60)
    assert int(xenvbd.dom0(f"stat -c %b {image}")) * 512 < full * 512 - (24 << 20)
    flushed = xenvbd.show(pv, "xvdb")["stats"]["requests"]["flush"]
    pv.run("echo hello >/mnt/g; sync")
    assert xenvbd.show(pv, "xvdb")["stats"]["requests"]["flush"] > flushed
    assert "hello" in xenvbd.dom0(f"grep -a -o hello {image} | head -1")
