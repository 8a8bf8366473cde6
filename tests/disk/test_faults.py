"""The fault filter passes everything through, but what a rule stops: that fails, waits, or is done in part."""
import errno
import os
import threading
import time

import pytest

from xenvbd.disk import Disk
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.probe import Session


@pytest.fixture
def faulty(storage: Disk) -> FaultDisk:
    return FaultDisk(storage)


def failure(call, *args, **options) -> int:
    with pytest.raises(OSError) as caught:
        call(*args, **options)
    return caught.value.errno


def test_without_rules_it_is_the_disk_below(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        session.write(512, b"a" * 8192, segments=2)
        session.flush()
        session.discard(4096, 512)
        assert session.read(512, 8192) == b"a" * (4096 - 512) + bytes(512) + b"a" * 4096
    assert [faulty.seen(op) for op in ("read", "write", "flush", "discard", "any")] == [1, 1, 1, 1, 4]
    assert faulty.size == faulty.lower.size and faulty.engine == f"faults+{faulty.lower.engine}"


def test_a_failing_write_changes_nothing_and_others_go_on(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        rule = faulty.fail("write", errno.EIO)
        assert failure(session.write, 0, b"a" * 512) == errno.EIO
        assert session.read(0, 512) == bytes(512)
        assert faulty.hits(rule) == 1


def test_no_room_until_the_rule_is_cleared(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        faulty.fail("write", errno.ENOSPC)
        assert [failure(session.write, 0, b"a" * 512) for _ in range(3)] == [errno.ENOSPC] * 3
        faulty.clear()
        session.write(0, b"a" * 512)
        assert session.read(0, 512) == b"a" * 512


def test_after_and_count_pick_the_operations_that_fail(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        faulty.fail("flush", errno.EIO, after=2, count=1)
        session.flush()
        session.flush()
        assert failure(session.flush) == errno.EIO
        session.flush()


def test_a_torn_write_is_done_in_part_and_fails(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        faulty.fail("write", errno.EIO, transfer=1024, count=1)
        assert failure(session.write, 0, b"a" * 4096, segments=2) == errno.EIO
        assert session.read(0, 4096) == b"a" * 1024 + bytes(3072)


def test_a_held_write_is_not_done_until_it_is_released(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        rule = faulty.hold("write")
        slot = session.submit("write", 0, b"a" * 512)
        assert session.reap(0.02) == {} and faulty.held == 1
        assert session.reap() == {} and session.sleep(0) == set()
        faulty.clear(rule)
        assert session.reap(10) == {slot: 0} and faulty.held == 0
        session.take(slot)
        assert session.read(0, 512) == b"a" * 512


def test_clearing_a_hold_wakes_the_sleeping_thread(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        faulty.hold("any")
        slot = session.submit("flush")

        def release() -> None:
            faulty.wait_held(1)
            faulty.clear()

        thread = threading.Thread(target=release)
        thread.start()
        assert session.reap(10) == {slot: 0}
        thread.join()


def test_a_rule_that_took_a_cleared_ones_place_does_not_hold_its_operations(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        faulty.clear(faulty.hold("read"))
        slot = session.submit("read", 0, 512)
        faulty.hold("write")
        assert session.reap(10) == {slot: 0}


def test_delayed_operations_come_in_their_own_time(faulty: FaultDisk) -> None:
    with Session(faulty) as session:
        faulty.delay("write", 0.05, count=1)
        start = time.monotonic()
        late, early = session.submit("write", 0, b"a" * 512), session.submit("write", 512, b"b" * 512)
        order = list(session.reap(10))
        while len(order) < 2:           # both at once if this thread waited for a processor
            order += session.reap(10)
        assert order == [early, late] and time.monotonic() - start >= 0.05


def test_its_own_wake_up_is_not_reported_and_its_tag_is_taken(faulty: FaultDisk) -> None:
    event = os.eventfd(1)
    with Session(faulty) as session:
        assert failure(session.watch, event, 31) == errno.EINVAL
        session.watch(event, 30)
        faulty.clear()
        assert session.sleep(5) <= {30}
        assert session.sleep(5) == {30}
    os.close(event)


def test_there_are_sixteen_rules(faulty: FaultDisk) -> None:
    for _ in range(16):
        faulty.hold("read")
    with pytest.raises(OSError, match="no more than 16 rules"):
        faulty.hold("read")
