"""A data plane dies before each single store that it makes to ring and journal; the next goes on, and no guest notices.

The crash points are those of crashpoint.h: number 1 to the last that a short run passes; without XENVBD_CRASH_ALL=1
(`make test-crash`) every fourth of them."""
import os
import random

import pytest

ROUNDS, DEPTH = 2, 4
ALL = os.environ.get("XENVBD_CRASH_ALL") == "1"


def run(work, crashes):
    """A short life on planes that die at these crash points, the last not at all; how many died."""
    first, *work.crashes = crashes
    work.planes.start(crash=first)
    for _ in range(ROUNDS):
        work.round(DEPTH)
    work.crashes.clear()
    work.verify()
    work.planes.end()
    return work.planes.starts - 1


@pytest.mark.parametrize("index", [0, (1 << 32) - 4], ids=["", "indices-that-wrap"])
def test_a_plane_may_die_before_each_store(arena, crash_forker, index):
    number, died = 1 + index % 3, True
    while died:
        with arena(crash_forker, seed=number, index=index) as work:
            died = run(work, [number])
        number += 1 if ALL else 4
    assert number > 100, "there are fewer stores than a run has"


@pytest.mark.parametrize("seed", range(200 if ALL else 12))
def test_the_planes_that_follow_may_die_before_any_store_too(arena, crash_forker, seed):
    generator = random.Random(seed)
    with arena(crash_forker, seed=seed, queues=1 + seed % 3, persistent=seed % 2 == 1, order={"direct": False}) as work:
        run(work, [generator.randrange(1, 150) for _ in range(8)])
