"""The power goes at any moment: nothing that was flushed is lost, whatever the disk's cache did with the rest."""
import os
import sys
import tempfile

import pytest

from tests.crash.planes import Planes
from tests.crash.workload import BLOCK
from tests.power.database import Database
from tests.power.replay import FLUSH, losses, recorded
from tests.support.guest import Guest

ALL = os.environ.get("XENVBD_CRASH_ALL") == "1"
REQUESTS = 4000 if ALL else 400


@pytest.fixture(params=["uring", "threads"])
def recording(request, forker, tmp_path):
    """What serves, with which engine, and the file that has what was asked of the storage."""
    return forker, request.param, tmp_path / "record"


def run(machine, recording, seed, depth, kills=0):
    """A database on planes that are killed so many times under it: the operations below them, and its promises."""
    forker, engine, record = recording
    machine.add_domain(1)
    guest = Guest(machine, 1)
    work = Database(guest, seed)
    with tempfile.TemporaryDirectory(prefix="xenvbd-", dir="/dev/shm") as directory:
        planes = Planes(forker, machine, guest, directory, engine=engine, record=str(record))
        with open(planes.image, "wb") as file:
            file.truncate(len(work.pages) * BLOCK)
        try:
            planes.start()
            assert planes.serving()
            for _ in range(kills):
                work.work(REQUESTS // (kills + 1), depth, rest=False)
                planes.end()
                planes.start(adopt=True)
            work.work(REQUESTS // (kills + 1), depth)
        finally:
            planes.end()
            guest.close()
    return recorded(record), work.promises()


@pytest.mark.parametrize("depth", [1, 4, 16])
def test_nothing_that_was_flushed_is_lost(machine, recording, depth):
    history, promises = run(machine, recording, seed=depth, depth=depth)
    looked, lost = losses(history, promises)
    print(f"\ndepth {depth}: {len(history)} operations, {len(promises)} flushes, {looked} states", file=sys.stderr)
    assert lost == [] and len(promises) > REQUESTS // 10 and looked > 10 * REQUESTS


def test_nor_is_it_when_workers_were_killed_and_followed(machine, recording):
    history, promises = run(machine, recording, seed=7, depth=8, kills=5)
    assert losses(history, promises)[1] == []


def test_a_flush_that_did_not_reach_the_disk_would_be_found(machine, recording):
    """The judge can say no."""
    history, promises = run(machine, recording, seed=2, depth=4)
    flushes = [done for done in history if done.kind == FLUSH]
    assert losses([done for done in history if done.kind != FLUSH], promises)[1]
    early = [done._replace(begin=done.begin - 10**7) if done.kind == FLUSH else done for done in history]
    assert flushes and losses(early, promises)[1]
