"""What every engine does: one specification, in blocks of 512 bytes, for all of them."""
import errno
import gc
import os
import random
import time

import pytest

from xenvbd.disk import Disk
from xenvbd.disk.probe import Session

MIB = 1 << 20


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def failure(call, *args, **options) -> int:
    """The errno of a call that must fail."""
    with pytest.raises(OSError) as caught:
        call(*args, **options)
    return caught.value.errno


@pytest.mark.parametrize("length", [512, 1024, 4096, 65536 + 512, MIB])
def test_what_was_written_is_read_back(storage: Disk, length: int) -> None:
    with Session(storage) as session:
        session.write(8192, pattern(length))
        assert session.read(8192, length) == pattern(length)
        assert session.read(0, 8192) == bytes(8192)
        assert session.read(8192 + length, 512) == bytes(512)


@pytest.mark.parametrize("segments", [2, 11, 256, [512, 4096, 512, 1024]])
def test_vectors_of_many_segments_transfer_every_byte_in_order(storage: Disk, segments) -> None:
    length = sum(segments) if isinstance(segments, list) else segments * 4096
    with Session(storage) as session:
        session.write(4096, pattern(length), segments=segments)
        assert session.read(4096, length) == pattern(length)
        assert session.read(4096, length, segments=segments) == pattern(length)


@pytest.mark.parametrize("register", [True, False])
def test_memory_may_be_registered_or_not(storage: Disk, register: bool) -> None:
    with Session(storage, register=register) as session:
        session.write(0, pattern(8192), segments=2)
        assert session.read(0, 8192, segments=2) == pattern(8192)


def test_memory_need_not_start_on_a_page(storage: Disk) -> None:
    with Session(storage) as session:
        slot = session.submit("write", 512, pattern(1024), skew=512)
        session.wait(slot)
        assert session.wait(session.submit("read", 512, 1024, skew=1536)) == pattern(1024)


def test_the_first_and_the_last_block_are_within_the_disk_and_the_next_is_not(storage: Disk) -> None:
    with Session(storage) as session:
        for offset in (0, storage.size - 512):
            session.write(offset, pattern(512, offset))
            assert session.read(offset, 512) == pattern(512, offset)
        for offset in (storage.size, storage.size - 512 + 1, 2**63, 2**64 - 512):
            assert failure(session.write, offset, bytes(512)) == errno.EINVAL
            assert failure(session.read, offset, 512) == errno.EINVAL


def test_an_operation_of_no_bytes_succeeds(storage: Disk) -> None:
    with Session(storage) as session:
        assert session.read(512, 0, segments=[]) == b""
        session.write(storage.size, b"", segments=[])
        session.discard(0, 0)


def test_flush_and_fua_succeed(storage: Disk) -> None:
    with Session(storage) as session:
        session.write(0, pattern(4096), fua=True)
        session.flush()
        assert session.read(0, 4096) == pattern(4096)


def test_discarded_blocks_read_as_zeros_and_their_neighbours_stay(storage: Disk) -> None:
    assert storage.can_discard
    with Session(storage) as session:
        session.write(0, b"\xff" * MIB)
        session.discard(8192 - 512, 65536 + 1024)
        assert session.read(0, MIB) == b"\xff" * (8192 - 512) + bytes(65536 + 1024) + b"\xff" * (
            MIB - 8192 - 65536 - 512)


def test_all_slots_may_be_in_flight_at_once(storage: Disk) -> None:
    with Session(storage, depth=64, slot_bytes=8192) as session:
        writes = {session.submit("write", i * 8192, pattern(8192, i)) for i in range(64)}
        finish(session, writes)
        reads = {session.submit("read", i * 8192, 8192): i for i in range(64)}
        done = finish(session, set(reads), take=False)
        assert all(result == 0 for result in done.values())
        assert all(session.take(slot) == pattern(8192, i) for slot, i in reads.items())


def finish(session: Session, slots: set[int], take: bool = True) -> dict[int, int]:
    """Reap until all of these are done, each exactly once."""
    done: dict[int, int] = {}
    deadline = time.monotonic() + 30
    while set(done) < slots:
        assert time.monotonic() < deadline
        for slot, result in session.reap(1).items():
            assert slot in slots and slot not in done
            done[slot] = result
            if take:
                session.take(slot)
    return done


def test_random_operations_leave_what_a_model_says(storage: Disk) -> None:
    rng, model = random.Random(7), bytearray(storage.size)
    with Session(storage, depth=16) as session:
        for _ in range(300):
            offset = rng.randrange(storage.size // 512) * 512
            length = min(rng.choice([512, 4096, 12288, 131072]), storage.size - offset)
            segments = rng.choice([1, [512] * (length // 512)])
            match rng.choice(["read", "write", "write", "discard", "flush"]):
                case "write":
                    model[offset:offset + length] = data = rng.randbytes(length)
                    session.write(offset, data, segments=segments, fua=rng.random() < .1)
                case "discard":
                    model[offset:offset + length] = bytes(length)
                    session.discard(offset, length)
                case "flush":
                    session.flush()
                case _:
                    assert session.read(offset, length, segments=segments) == model[offset:offset + length]
        assert all(session.read(at, MIB) == model[at:at + MIB] for at in range(0, storage.size, MIB))


def test_a_load_runs_without_errors_and_counts_its_operations(storage: Disk) -> None:
    with Session(storage, depth=8, slot_bytes=4096) as session:
        for op in ("write", "read", "flush"):
            result = session.load(0.05, op=op)
            assert result["ops"] >= 8 and result["errors"] == 0


# Sleeping.

def test_sleep_returns_after_its_timeout_when_nothing_happens(storage: Disk) -> None:
    with Session(storage) as session:
        before = time.monotonic()
        assert session.sleep(0.05) == set()
        assert session.sleep(0) == set()
        assert time.monotonic() - before > 0.04


def test_sleep_says_which_watched_descriptors_are_readable_until_they_are_read(storage: Disk) -> None:
    events = {tag: os.eventfd(0, os.EFD_NONBLOCK) for tag in (0, 5, 31)}
    with Session(storage) as session:
        for tag, fd in events.items():
            session.watch(fd, tag)
        assert session.sleep(0) == set()
        for turn in range(3):
            os.eventfd_write(events[5], 1)
            os.eventfd_write(events[31], 1)
            assert session.sleep(5) == {5, 31}
            assert session.sleep(5) == {5, 31}, "level triggered"
            os.eventfd_read(events[5])
            assert session.sleep(5) == {31}
            os.eventfd_read(events[31])
            assert session.sleep(0.01) == set(), turn
    for fd in events.values():
        os.close(fd)


def test_sleep_starts_what_was_submitted_and_wakes_when_it_is_done(storage: Disk) -> None:
    with Session(storage) as session:
        slot = session.submit("write", 0, pattern(4096))
        assert session.sleep(10) == set()
        done = session.reap()
        while not done:         # a wake-up says "look", not "done"
            session.sleep(10)
            done = session.reap()
        assert done == {slot: 0}


def test_sleep_does_not_wait_while_something_finished_is_not_reaped(storage: Disk) -> None:
    with Session(storage) as session:
        slot = session.submit("write", storage.size, bytes(512))    # refused without any I/O
        session.sleep(-1)
        assert session.reap() == {slot: -errno.EINVAL}


@pytest.mark.parametrize(("fd", "tag"), [(0, 32), (-1, 0)])
def test_a_watch_of_a_wrong_tag_or_descriptor_is_refused(storage: Disk, fd: int, tag: int) -> None:
    with Session(storage) as session:
        assert failure(session.watch, fd, tag) == errno.EINVAL


def test_a_queue_can_be_attached_and_detached_again(storage: Disk) -> None:
    for _ in range(3):
        with Session(storage) as session:
            session.write(0, pattern(512))


def test_a_session_that_is_dropped_in_a_cycle_is_detached(storage: Disk) -> None:
    cycle: list = [Session(storage)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    storage.close()
