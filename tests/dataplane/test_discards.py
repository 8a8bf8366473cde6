"""How discards are done: in pieces that fit the storage, two at a time for the whole disk, none when it is to end."""
import os
import struct
import tempfile
import time

import pytest

from tests.support.guest import DISCARD, OKAY, READ, until
from xenvbd.dataplane import DataPlane
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk

MIB = 1 << 20
TIB = 1 << 40


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:16T", 16 * TIB))


@pytest.fixture
def record():
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        yield file


def discards(guest, count: int, size: int) -> list:
    return [guest.request(DISCARD, i * size // 512, nr_sectors=size // 512) for i in range(count)]


def lengths(record) -> list[int]:
    """Of the pieces that the disk was asked for, in order; see struct entry of disk/faults.pyx."""
    entries = struct.iter_unpack("=7Qq", os.pread(record.fileno(), 1 << 20, 0))
    return [entry[6] for entry in entries if not entry[2]]


def recorded(record, size: int) -> FaultDisk:
    return FaultDisk(MemoryDisk(f"mem:{size}", size), record=record.fileno())


def test_a_discard_is_done_as_a_whole_in_pieces_of_at_most_64_mib(serve, record) -> None:
    guest = serve(disk=recorded(record, 1 << 30)).guest
    assert guest.do(*discards(guest, 1, 1 << 30)) == [OKAY]
    assert sum(lengths(record)) == 1 << 30 and max(lengths(record)) <= 64 * MIB


def test_storage_that_is_slow_with_them_gets_small_pieces(serve, record) -> None:
    disk = recorded(record, 128 * MIB)
    guest = serve(disk=disk).guest
    disk.delay("discard", 0.02)
    guest.submit(*discards(guest, 1, 128 * MIB))
    until(lambda: lengths(record)[-1:] == [MIB])


def test_at_most_two_pieces_are_done_at_once_however_many_queues_there_are(serve_queues, disk) -> None:
    served = serve_queues(8, disk)
    disk.hold("discard")
    for guest in served.rings:
        guest.submit(*discards(guest, 10, MIB))
    disk.wait_held(2)
    for guest in served.rings:
        assert guest.do(guest.request(READ, 0, guest.pages(1).segments())) == [OKAY]
    assert disk.seen("discard") == 2
    disk.clear()
    for guest in served.rings:
        until(lambda guest=guest: guest.take() or not guest.outstanding)


def test_a_queue_with_endless_discards_leaves_the_others_their_turns(serve_queues, disk) -> None:
    served = serve_queues(4, disk)
    greedy, *others = served.rings
    greedy.submit(*discards(greedy, 32, 16 * TIB // 32))
    for guest in others:
        assert guest.do(*discards(guest, 4, MIB)) == [OKAY] * 4
    assert greedy.outstanding


def test_a_queue_that_ends_gives_its_turns_to_the_others(serve_queues, disk) -> None:
    served = serve_queues(2, disk)
    first, second = served.rings
    disk.hold("discard", count=2)
    broken = discards(first, 4, MIB)
    first.submit(*broken)
    disk.wait_held(2)
    asked = discards(second, 2, MIB)
    second.submit(*asked)
    memory = memoryview(first.ring_pages)
    memory[0:4] = (1000).to_bytes(4, "little")
    memory.release()
    first.evtchn.notify(first.port)
    served.expect("quarantined")
    disk.clear()
    assert second.finish(*asked) == [OKAY] * 2


def test_what_waits_at_a_stop_is_answered_and_not_done(serve, disk) -> None:
    served = serve(disk=disk)
    guest = served.guest
    rule = disk.hold("discard", count=2)
    asked = discards(guest, 32, 16 * TIB // 32)
    guest.submit(*asked)
    disk.wait_held(2)
    served.plane.stop_begin()
    until(lambda: guest.take() or len(guest.answered) == 30)
    disk.clear(rule)
    served.expect("stopped")
    assert guest.finish(*asked) == [OKAY] * 32
    assert disk.seen("discard") == 2


def test_what_waits_when_the_ring_is_handed_over_is_done_by_the_next(serve, guests, machine, disk) -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as journal:
        served = serve(guests(), disk=disk, journal=journal.fileno())
        guest = served.guest
        disk.hold("discard", count=2)
        asked = discards(guest, 8, MIB)
        guest.submit(*asked)
        disk.wait_held(2)
        served.plane.stop_begin(hand_over=True)
        disk.clear()
        assert served.plane.stop(timeout=10) and disk.seen("discard") == 2
        plane = DataPlane(machine.join(0), disk)
        plane.start(guest.agreement, [journal.fileno()], adopt=True)
        served.plane.destroy()
        served.plane = plane
        assert guest.finish(*asked) == [OKAY] * 8
        assert disk.seen("discard") >= 8


def test_no_more_is_begun_when_the_ring_is_handed_over_while_others_are_under_way(serve, guests, disk) -> None:
    """Two in turn would never both be at rest, and the worker is killed after some seconds."""
    with tempfile.TemporaryFile(dir="/dev/shm") as journal:
        served = serve(guests(), disk=disk, journal=journal.fileno())
        rules = [disk.hold("discard", count=1), disk.hold("discard", count=1)]
        served.guest.submit(*discards(served.guest, 8, MIB))
        disk.wait_held(2)
        served.plane.stop_begin(hand_over=True)
        disk.clear(rules[0])
        time.sleep(0.05)
        disk.clear(rules[1])
        assert served.plane.stop(timeout=10) and disk.seen("discard") == 2


@pytest.mark.parametrize(("sector", "count", "zeros"), [
    (1, 31, (8, 32)), (7, 33, (8, 40)), (0, 16, (0, 16)), (8185, 7, None), (8184, 8, (8184, 8192)), (1, 14, None),
    (9, 6, None), (8, 0, None)])
def test_of_parts_of_larger_blocks_the_whole_ones_are_discarded_and_the_edges_stay(
        serve, sector: int, count: int, zeros: tuple[int, int] | None) -> None:
    disk = FaultDisk(MemoryDisk("mem:4M", 4 * MIB), discard_unit=4096)
    guest = serve(disk=disk).guest
    expected = bytearray(os.urandom(4 * MIB))
    for at in range(0, 8192, 2048):
        assert guest.write(at, expected[at * 512:(at + 2048) * 512]) == OKAY
    assert guest.do(guest.request(DISCARD, sector, nr_sectors=count)) == [OKAY]
    if zeros is not None:
        expected[zeros[0] * 512:zeros[1] * 512] = bytes((zeros[1] - zeros[0]) * 512)
    assert b"".join(guest.read(at, 2048) for at in range(0, 8192, 2048)) == expected
    assert disk.seen("discard") == (zeros is not None)
