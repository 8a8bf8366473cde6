"""Data planes killed at random moments under a deep queue, one after the other: the guest only waits.

CYCLES kills in all; XENVBD_CRASH_CYCLES says how many."""
import contextlib
import os
import random
import signal
import threading
import time

import pytest

from tests.support.guest import OKAY, WRITE
from xenvbd.disk.locks import lock_image

CYCLES = int(os.environ.get("XENVBD_CRASH_CYCLES", "60"))
SEED = int(os.environ.get("XENVBD_CRASH_SEED", "1"))


class Killer(threading.Thread):
    """Kills whatever plane there is, after a random while, again and again; two of three when it serves already."""

    def __init__(self, planes, seed, number=signal.SIGKILL):
        super().__init__(daemon=True)
        self.planes, self.random, self.number, self.kills, self.over = planes, random.Random(seed), number, 0, False

    def run(self):
        while not self.over:
            if self.random.random() < 0.67:
                while not (self.planes.serves or self.over):
                    time.sleep(0.001)
            time.sleep(self.random.random() * 0.03)
            if (pid := self.planes.pid) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, self.number)
                    self.kills += 1


@contextlib.contextmanager
def killing(planes, seed, number=signal.SIGKILL):
    killer = Killer(planes, seed, number)
    killer.start()
    try:
        yield killer
    finally:
        killer.over = True
        killer.join()


@pytest.mark.parametrize("engine", ["uring", "threads"])
@pytest.mark.parametrize("depth, order, abi", [(32, 0, "native"), (128, 2, "x86_32-abi"), (256, 3, "x86_64-abi")])
def test_no_write_is_lost_and_nothing_is_answered_twice(arena, forker, depth, order, abi, engine):
    seed = SEED * 1000 + depth
    index = random.Random(seed).choice((0, (1 << 32) - 100))
    with arena(forker, seed=seed, blocks=2 * depth, ring_order=order, abi=abi, index=index,
               order={"engine": engine}) as work:
        work.planes.start()
        with killing(work.planes, seed) as killer:
            while killer.kills < CYCLES // 6 or work.planes.starts <= CYCLES // 12:     # some meet a dead one again
                work.round(depth)
        work.verify()


@pytest.mark.parametrize("queues, persistent", [(1, True), (3, False), (2, True)])
def test_nor_with_persistent_grants_and_several_queues(arena, forker, machine, queues, persistent):
    seed, rings, kept = SEED * 1000 + queues, set(), set()
    with arena(forker, seed=seed, blocks=64, queues=queues, persistent=persistent, order={"direct": False}) as work:
        rings = {gref for queue in work.guest.agreement.queues for gref in queue.ring_refs}
        work.planes.start()
        with killing(work.planes, seed) as killer:
            while killer.kills < CYCLES // 6 or work.planes.starts <= CYCLES // 12:
                work.round(32)
                kept |= {gref for _, gref in machine.mappings(1)} - rings
        work.verify()
        assert bool(kept) == persistent


def test_a_plane_that_hands_over_leaves_nothing_out(arena, forker):
    with arena(forker, blocks=64) as work:
        work.planes.start()
        with killing(work.planes, SEED, signal.SIGTERM) as killer:
            while killer.kills < 20 or work.planes.starts <= 10:
                work.round(32)
        work.verify()


def test_the_next_plane_waits_until_the_last_write_of_the_dead_one_can_have_landed(arena, forker):
    """The lock stays as long as anything holds the dead plane's description of the image; here the test does."""
    with arena(forker) as work:
        work.planes.start()
        work.round(4)
        work.planes.end()
        fd = os.open(work.planes.image, os.O_RDWR)
        lock_image(fd, work.planes.image, exclusive=True, fence="1/51712", wait=True)
        request = work.guest.request(WRITE, 0, work.guest.pages(1).segments(8))
        work.guest.submit(request)
        work.planes.start(adopt=True)
        assert work.guest.quiet(0.4)
        released = time.monotonic()
        os.close(fd)
        assert work.guest.finish(request) == [OKAY]
        assert work.planes.serving() and work.planes.fenced >= released
