"""A ring that was begun anew with the numbers of the one before, by the stock blkfront, while nobody looked."""
from __future__ import annotations

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

DEVID = 51728
# An area that is new is a new device for Linux, and a backend that says Connected is one that blkfront connects to.
ANEW = """
area=/local/domain/{domid}/device/vbd/{devid}
xenstore-rm $area; sleep 2
xenstore-write $area/backend /local/domain/0/backend/qdisk/{domid}/{devid} $area/backend-id 0 \\
    $area/virtual-device {devid} $area/device-type disk
xenstore-chmod -r $area n{domid} r0
xenstore-write $area/state 1
"""


def numbers(xenvbd: Xenvbd, domid: int) -> list[str]:
    """Of the ring that the guest offers; none if it offers none."""
    area = f"/local/domain/{domid}/device/vbd/{DEVID}"
    return xenvbd.dom0(f"xenstore-read {area}/ring-ref {area}/event-channel 2>/dev/null", check=False).split()


def test_a_ring_with_the_numbers_of_the_last_is_not_taken_for_it(pv: Guest, xenvbd: Xenvbd) -> None:
    """As a kernel that was started by another one in its place may have them."""
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    pv.run(workload.written("/dev/xvdb", 4))
    first = numbers(xenvbd, domid)
    worker, = xenvbd.workers()
    xenvbd.service("stop")
    xenvbd.dom0(f"kill -9 {worker}")
    pv.run("echo vbd-51728 >/sys/bus/xen/drivers/vbd/unbind", 120)
    xenvbd.dom0(ANEW.format(domid=domid, devid=DEVID), 120)
    again = wait("another ring", lambda: numbers(xenvbd, domid), 60)
    assert again == first, "else this shows nothing"

    pv.wait_for("[ -b /dev/xvdb ]")
    pv.shell.start(workload.written("/dev/xvdb", 8))
    xenvbd.service("start")
    assert pv.shell.finish(120).split()[0] == xenvbd.checksum(image)
    assert pv.run("dmesg | grep -E 'I/O error|disabled for further use' || true") == ""
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)
