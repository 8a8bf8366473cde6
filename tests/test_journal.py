"""The journal of a ring: made, found again, refused when it is another's.  Its stores: tests/dataplane."""
import os
import struct
from pathlib import Path

import pytest

from xenvbd.errors import ProtocolError
from xenvbd.journal import Identity, Journal, boot_id
from xenvbd.ring import Request

IDENTITY = Identity(domid=7, devid=51712, queue=0, evtchn=9, abi=2, ring_refs=(100, 101),
                    image_dev=1, image_ino=2, capacity=2048)
ENTRIES, SLOTS, SLOT = 64, 4096, 128


@pytest.fixture
def file(tmp_path: Path):
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_a_fresh_journal_has_its_size_and_nothing_pending(file: int) -> None:
    journal = Journal.create(file, IDENTITY, ENTRIES, index=5)
    assert os.fstat(file).st_size == SLOTS + SLOT * ENTRIES
    assert (journal.pending(), journal.failed, journal.req_cons, journal.rsp_prod) == ([], False, 5, 5)


def test_a_journal_needs_no_file() -> None:
    assert Journal.create(None, IDENTITY, ENTRIES).pending() == []


def test_a_journal_starts_empty_over_an_older_one(file: int) -> None:
    Journal.create(file, IDENTITY, ENTRIES)
    os.pwrite(file, struct.pack("=I", 1), SLOTS)
    assert Journal.create(file, IDENTITY, ENTRIES).pending() == []


def test_its_layout_is_journal_h(file: int) -> None:
    Journal.create(file, IDENTITY, ENTRIES)
    header = os.pread(file, SLOTS, 0)
    assert struct.unpack_from("=8sII40s", header) == (b"XVBDJRNL", 1, ENTRIES, boot_id().ljust(40, b"\0"))
    assert struct.unpack_from("=IIIIII", header, 56) == (7, 51712, 0, 9, 2, 2)


def test_a_later_worker_finds_what_was_not_answered(file: int) -> None:
    Journal.create(file, IDENTITY, ENTRIES)
    for slot, idx, answered, id_ in (3, 0xFFFFFFFF, 0, 11), (9, 0, 1, 12), (0, 1, 0, 13):
        request = struct.pack("=BBHHHQQIBB", 1, 0, 1, 0, 0, id_, 8, 77, 0, 7)
        os.pwrite(file, struct.pack("=IIII", 1, idx, answered, 5) + request, SLOTS + SLOT * slot)
    os.pwrite(file, struct.pack("=III", 1, 2, 0xFFFFFFFF), 168)     # failed, req_cons, rsp_prod
    journal = Journal.open(file, IDENTITY, ENTRIES)
    assert [(p.idx, p.answered, p.request.id) for p in journal.pending()] == [
        (0xFFFFFFFF, False, 11), (0, True, 12), (1, False, 13)]
    assert journal.pending()[0].request == Request(1, 11, 8, ((77, 0, 7),), nr_segments=1)
    assert (journal.failed, journal.req_cons, journal.rsp_prod) == (True, 2, 0xFFFFFFFF)


@pytest.mark.parametrize(("change", "names"), [
    ({"domid": 8}, "device"), ({"devid": 1}, "device"), ({"queue": 1}, "device"), ({"evtchn": 8}, "ring"),
    ({"abi": 1}, "ring"), ({"ring_refs": (100,)}, "ring"), ({"ring_refs": (100, 102)}, "ring-ref"),
    ({"image_ino": 3}, "image"), ({"image_dev": 3}, "image")])
def test_another_rings_journal_is_refused_with_what_differs(file: int, change: dict, names: str) -> None:
    Journal.create(file, IDENTITY, ENTRIES)
    with pytest.raises(ProtocolError, match=f"{names} differs"):
        Journal.open(file, IDENTITY._replace(**change), ENTRIES)


def test_a_journal_of_another_boot_or_version_or_none_at_all_is_refused(file: int) -> None:
    for offset, names in (0, "magic"), (8, "version"), (16, "boot"):
        Journal.create(file, IDENTITY, ENTRIES)
        os.pwrite(file, b"?", offset)
        with pytest.raises(ProtocolError, match=f"{names} differs"):
            Journal.open(file, IDENTITY, ENTRIES)


def test_a_journal_that_is_too_short_is_refused(file: int) -> None:
    Journal.create(file, IDENTITY, ENTRIES)
    with pytest.raises(ProtocolError, match="shorter"):
        Journal.open(file, IDENTITY, 2 * ENTRIES)


def test_a_grown_disk_keeps_its_journal(file: int) -> None:
    Journal.create(file, IDENTITY, ENTRIES)
    assert Journal.open(file, IDENTITY._replace(capacity=4096), ENTRIES).pending() == []


def test_no_room_on_tmpfs_is_an_error_and_not_a_signal() -> None:
    with pytest.raises(OSError):
        Journal.create(os.open("/dev/full", os.O_RDWR), IDENTITY, ENTRIES)
