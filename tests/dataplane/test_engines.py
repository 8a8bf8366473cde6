"""The data plane over every engine: a mixed load, verified by sector; buffers pinned, given back, pinned again."""
import hashlib
import time
from pathlib import Path

import pytest

from tests.support.guest import Agreement, Ring, until
from xenvbd import disk
from xenvbd.dataplane import DataPlane, Settings
from xenvbd.disk.opener import FILE_ENGINES
from xenvbd.frontend.load import Load
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.shadow import Shadow
from xenvbd.stats import Snapshot
from xenvbd.target import parse

SIZE = 16 << 20


@pytest.fixture(params=[(engine, direct) for engine in FILE_ENGINES for direct in (None, False)],
                ids=lambda p: p[0] + ("" if p[1] is None else "-buffered"))
def image(request, tmp_path: Path):
    """An open image file: each engine, direct where the file system can and buffered."""
    engine, direct = request.param
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    opened = disk.open(parse(str(path)), engine=engine, direct=direct)
    yield opened
    opened.close()


@pytest.fixture
def front(machine):
    machine.add_domain(5)
    queue = FrontQueue(machine.join(5), 0, order=1)
    queue.max_segments = 256
    yield queue
    queue.close()


@pytest.fixture
def start(machine, image, front):
    """start(**settings): a plane that serves the image to the frontend."""
    planes = []

    def make(**settings) -> DataPlane:
        planes.append(DataPlane(machine.join(0), image, settings=Settings(**settings)))
        planes[-1].start(Agreement(5, 51712, "native", (Ring(front.refs, front.port),)))
        return planes[-1]

    yield make
    for plane in planes:
        plane.destroy()


def run(load: Load) -> None:
    while load.step(0.1):
        pass


@pytest.mark.parametrize("bs", [4096, 262144])
def test_every_sector_of_a_mixed_load_is_what_the_guest_wrote(start, image, front, bs: int) -> None:
    plane, shadow = start(), Shadow(SIZE // 512)
    run(Load(front, shadow, rw="randrw", bs=bs, iodepth=32, count=1500, flush_every=40, discard_every=60, skew=True))
    run(Load(front, shadow, rw="verify", bs=65536))
    plane.stop()
    found = hashlib.sha256(Path(image.target.removeprefix("file:")).read_bytes()).hexdigest()
    assert found == shadow.digest()


def resident() -> int:
    """Bytes of anonymous memory that this process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def test_idle_buffers_go_back_to_the_kernel_and_are_there_when_needed(start, front) -> None:
    """Pinned by the engine when it is worth it, unpinned before their pages go, pinned again."""
    start(idle_seconds=0.2)
    shadow = Shadow(SIZE // 512)
    for _ in range(3):
        load, busy = Load(front, shadow, rw="randrw", bs=131072, iodepth=64, count=1500), 0
        while load.step(0.01):
            busy = max(busy, resident())
        until(lambda: resident() < busy - (2 << 20))    # noqa: B023
        run(Load(front, shadow, rw="verify", bs=65536))


def test_an_idle_thread_does_not_wake(start, front) -> None:
    plane, shadow = start(idle_seconds=0.1), Shadow(SIZE // 512)
    run(Load(front, shadow, rw="randwrite", bs=4096, count=200))

    def wakeups() -> int:
        return Snapshot.from_bytes(plane.statistics()[0]).counters["wakeups"]

    def none_in_half_a_second() -> bool:
        before = wakeups()
        time.sleep(0.5)
        return wakeups() == before

    until(none_in_half_a_second, 20)
