"""Several queues of one disk, each with its own thread at both ends, against the data plane that ships."""
import hashlib

import pytest

from xenvbd.dataplane import DataPlane
from xenvbd.disk.memory import MemoryDisk
from xenvbd.features import Agreement, QueueAgreement
from xenvbd.frontend.loads import Loads
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.shadow import Shadow

SIZE = 8 << 20


@pytest.fixture
def served(machine):
    """served(count, persistent): the queues of a disk."""
    undo = []

    def make(count: int, persistent: bool) -> list[FrontQueue]:
        queues = [FrontQueue(machine.join(5), 0, 0, "native") for _ in range(count)]
        plane = DataPlane(machine.join(0), MemoryDisk("mem:8M", SIZE))
        plane.start(Agreement(5, 51712, "native", tuple(QueueAgreement(queue.refs, queue.port) for queue in queues),
                              persistent=persistent))
        undo.extend([*(queue.close for queue in queues), plane.destroy])
        for queue in queues:
            queue.max_segments = 256
        return queues

    yield make
    for step in reversed(undo):
        step()


def run(load: Loads) -> Loads:
    while load.step(0.1):
        pass
    return load


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_every_sector_that_several_queues_wrote_is_what_they_wrote(served, count: int, persistent: bool) -> None:
    queues, shadow = served(count, persistent), Shadow(SIZE // 512)
    load = run(Loads(queues, shadow, rw="randrw", bs=4096, iodepth=16, count=3000, flush_every=20, discard_every=70,
                     skew=True))
    assert load.snapshot.ops["flush"].ops > 10 and load.operations == 3000
    run(Loads(queues, shadow, rw="verify", bs=65536))
    image = b"".join(queues[0].execute(0, at, 2048)[1] for at in range(0, SIZE // 512, 2048))
    assert shadow.digest() == hashlib.sha256(image).hexdigest()


def test_the_region_and_the_count_are_divided_without_a_rest(served) -> None:
    queues, shadow = served(3, False), Shadow(SIZE // 512)
    load = run(Loads(queues, shadow, rw="write", first=8, sectors=1600, bs=4096, iodepth=4))
    assert load.snapshot.ops["write"].bytes == 1600 * 512
    load = run(Loads(queues, shadow, rw="randread", bs=4096, count=1000))
    assert load.snapshot.ops["read"].ops == 1000 and load.seconds > 0 and load.cpu_seconds > 0


def test_a_region_smaller_than_the_queues_is_refused(served) -> None:
    with pytest.raises(ValueError, match="8 sectors are too few for 2 queues"):
        Loads(served(2, False), Shadow(SIZE // 512), sectors=8, bs=4096)
