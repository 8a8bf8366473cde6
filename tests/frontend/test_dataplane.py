"""The frontend's oracle against the data plane that ships: both ends of the real ring in one process."""
import hashlib

import pytest

from xenvbd.dataplane import DataPlane
from xenvbd.disk.memory import MemoryDisk
from xenvbd.features import Agreement, QueueAgreement
from xenvbd.frontend.load import Load
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.shadow import Shadow

SIZE = 8 << 20


@pytest.fixture
def served(machine):
    """served(order, abi): a queue of the guest, served by a data plane on a memory disk."""
    undo = []

    def make(order: int, abi: str) -> FrontQueue:
        queue, disk = FrontQueue(machine.join(5), 0, order, abi), MemoryDisk("mem:8M", SIZE)
        plane = DataPlane(machine.join(0), disk)
        plane.start(Agreement(5, 51712, abi, (QueueAgreement(queue.refs, queue.port),)))
        undo.extend([queue.close, plane.destroy])
        queue.max_segments = 256
        return queue

    yield make
    for step in reversed(undo):
        step()


@pytest.mark.parametrize(("order", "abi", "bs", "iodepth"), [
    (0, "x86_64-abi", 4096, 32), (4, "x86_32-abi", 131072, 16), (2, "native", 512, 128)])
def test_every_sector_of_a_mixed_load_is_what_the_guest_wrote(served, order, abi, bs, iodepth) -> None:
    queue, shadow = served(order, abi), Shadow(SIZE // 512)
    load = Load(queue, shadow, rw="randrw", bs=bs, iodepth=iodepth, count=2000, flush_every=50, discard_every=70,
                skew=True)
    while load.step(0.1):
        pass
    verify = Load(queue, shadow, rw="verify", bs=65536)
    while verify.step(0.1):
        pass
    image = b"".join(queue.execute(0, at, 2048)[1] for at in range(0, SIZE // 512, 2048))
    assert shadow.digest() == hashlib.sha256(image).hexdigest()
