"""The stock blkfront's own switches and the shapes a disk can have; each boots a guest or plugs disks into one."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

Maker = Callable[..., Guest]


def boot(new_guest: Maker, xenvbd: Xenvbd, arguments: str, options: str = "", vcpus: int = 1) -> Guest:
    """A guest with a disk and blkfront's arguments; the disk is filled, read back and compared outside."""
    image = xenvbd.image("web")
    guest = new_guest("web", 1, paused=True, arguments=arguments, vcpus=vcpus)
    xenvbd.attach(guest, image, "xvda", f"--no-wait {options}")
    guest.unpause()
    guest.run(workload.file_system("/dev/xvda"), 180)
    assert guest.run("sync; sha256sum /dev/xvda", 120).split()[0] == xenvbd.checksum(image)
    return guest


@pytest.mark.parametrize("order", range(5))
def test_rings_of_every_size(order: int, new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest = boot(new_guest, xenvbd, f"xen_blkfront.max_ring_page_order={order}")
    assert xenvbd.show(guest, "xvda")["ring-page-order"] == order


@pytest.mark.parametrize("asked, segments", [(1, 11), (32, 32), (256, 256), (1000, 256)])
def test_indirect_requests_of_several_sizes(asked: int, segments: int, new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest = boot(new_guest, xenvbd, f"xen_blkfront.max_indirect_segments={asked}")
    assert guest.run("cat /sys/block/xvda/queue/max_segments") == str(segments)


@pytest.mark.parametrize("queues", [1, 2, 3, 4])
def test_a_frontend_with_several_queues(queues: int, new_guest: Maker, xenvbd: Xenvbd) -> None:
    xenvbd.dom0("sed -i 's/^#queues = 1/queues = 4/' /etc/xenvbd/xenvbd.toml")
    xenvbd.service("reload")
    guest = boot(new_guest, xenvbd, f"xen_blkfront.max_queues={queues}", vcpus=4)
    assert xenvbd.show(guest, "xvda")["queues"] == queues


def test_a_frontend_that_would_use_several_queues_gets_one(new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest = boot(new_guest, xenvbd, "xen_blkfront.max_queues=2", vcpus=2)
    assert xenvbd.show(guest, "xvda")["queues"] == 1


@pytest.mark.parametrize("offered, wanted", [("--persistent", 1), ("--persistent", 0), ("", 1)])
def test_persistent_grants_if_both_want_them(offered: str, wanted: int, new_guest: Maker, xenvbd: Xenvbd) -> None:
    guest = boot(new_guest, xenvbd, f"xen_blkfront.feature_persistent={wanted}", f"--no-direct {offered}")
    assert (xenvbd.show(guest, "xvda")["stats"]["grants-kept"] > 0) == bool(offered and wanted)


def test_sectors_of_4096_bytes(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("web")
    xenvbd.attach(pv, image, "xvdb", "--physical-sector-size 4096")
    assert pv.run("cd /sys/block/xvdb/queue; cat physical_block_size logical_block_size") == "4096\n512"
    pv.run(workload.file_system("/dev/xvdb"), 180)
    xenvbd.detach(pv, "xvdb")
    xenvbd.attach(pv, image, "xvdc", "--sector-size 4096")
    assert pv.run("cd /sys/block/xvdc; cat queue/logical_block_size size").split() == ["4096", str(64 * 2048)]
    pv.run(workload.file_system("/dev/xvdc"), 180)
    assert pv.run("sync; sha256sum /dev/xvdc").split()[0] == xenvbd.checksum(image)


def test_a_cdrom(pv: Guest, xenvbd: Xenvbd) -> None:
    image = xenvbd.image("medium", "4M")
    xenvbd.dom0(f"dd if=/dev/urandom of={image} bs=1M count=4 conv=notrunc 2>/dev/null")
    xenvbd.attach(pv, image, "xvdc", "--cdrom")
    assert pv.run("cat /sys/block/xvdc/ro") == "1"
    assert pv.run("sha256sum /dev/xvdc").split()[0] == xenvbd.checksum(image)
