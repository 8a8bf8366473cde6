"""The journal of a ring: made, found again, refused when it is another's.  Its stores: tests/dataplane."""
import os
import struct
from pathlib import Path

import pytest

from xenvbd import __version__
from xenvbd.errors import ProtocolError
from xenvbd.journal import VERSION, Identity, Journal, boot_id, is_failed, readable, unanswered, version_of
from xenvbd.ring import Request

IDENTITY = Identity(domid=7, devid=51712, queue=0, evtchn=9, abi=2, ring_refs=(100, 101),
                    image_dev=1, image_ino=2, capacity=2048)
ENTRIES, SLOTS, SLOT, WRITER, REQ_CONS, SINCE_2 = 64, 4096, 128, 180, 172, 204


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
    assert struct.unpack_from("=8sII40s", header) == (b"XVBDJRNL", 2, ENTRIES, boot_id().ljust(40, b"\0"))
    assert struct.unpack_from("=IIIIII", header, 56) == (7, 51712, 0, 9, 2, 2)


def test_what_version_2_added_lies_behind_what_version_1_has(file: int) -> None:
    Journal.create(file, IDENTITY, ENTRIES, index=5, nonce=bytes(range(16)))
    assert struct.unpack_from("=I16s", os.pread(file, SLOTS, 0), SINCE_2) == (5, bytes(range(16)))
    assert Journal.open(file, IDENTITY, ENTRIES).nonce == bytes(range(16))


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
    for offset, names in (0, "magic differs"), (8, "version differs"), (16, "boot differs"):
        Journal.create(file, IDENTITY, ENTRIES)
        os.pwrite(file, b"?", offset)
        with pytest.raises(ProtocolError, match=names):
            Journal.open(file, IDENTITY, ENTRIES)


def test_a_journal_of_xenvbd_0_1_is_read(file: int, tmp_path: Path) -> None:
    left_behind(file, {3: (5, 0, 0)}, req_cons=6, rsp_prod=5)
    os.pwrite(file, struct.pack("=I", 1), 8)
    os.pwrite(file, bytes(SLOTS - SINCE_2), SINCE_2)
    journal = Journal.open(file, IDENTITY, ENTRIES)
    assert (journal.version, journal.nonce, journal.reconcile()) == (1, bytes(16), 1)
    assert readable(1) and readable(VERSION) and not readable(VERSION + 1) and not readable(0)
    assert unanswered(str(tmp_path / "journal")) == [5] and not is_failed(str(tmp_path / "journal"))


def test_a_journal_of_another_version_is_refused_with_who_can_read_it(file: int) -> None:
    Journal.create(file, IDENTITY, ENTRIES)
    assert version_of(file) == (VERSION, __version__)
    os.pwrite(file, struct.pack("=I", 7), 8)
    os.pwrite(file, b"9.8.7\0", WRITER)
    assert version_of(file) == (7, "9.8.7")
    with pytest.raises(ProtocolError, match=r"is 7, of xenvbd 9\.8\.7; .* go back to xenvbd 9\.8\.7"):
        Journal.open(file, IDENTITY, 4 * ENTRIES)


def test_a_file_that_is_no_journal_was_never_begun(file: int) -> None:
    assert not Journal.begun(file) and version_of(file) == (0, "")
    Journal.create(file, IDENTITY, ENTRIES)
    assert Journal.begun(file)


# What a later worker makes of it

def left_behind(file: int, slots: dict, req_cons: int, rsp_prod: int) -> Journal:
    """A journal with these slots in use: {slot: (idx, answered, rsp_idx)}."""
    Journal.create(file, IDENTITY, ENTRIES)
    for slot, fields in slots.items():
        os.pwrite(file, struct.pack("=IIII", 1, *fields), SLOTS + SLOT * slot)
    os.pwrite(file, struct.pack("=II", req_cons, rsp_prod), 172)
    return Journal.open(file, IDENTITY, ENTRIES)


@pytest.mark.parametrize("base", [0, (1 << 32) - 2])
def test_a_request_that_was_answered_is_let_go_and_all_others_are_begun_again(file: int, base: int) -> None:
    def at(number: int) -> int:
        return (base + number) % (1 << 32)

    journal = left_behind(file, {
        3: (at(0), 1, at(1)),       # published
        4: (at(1), 1, at(2)),       # its response stands in the ring, unpublished
        5: (at(2), 0, 0),
        6: (at(4), 0, 0),           # only being consumed
    }, req_cons=at(4), rsp_prod=at(2))
    for _ in range(2):              # done again, it changes nothing
        assert journal.reconcile() == 2
        assert [(p.idx, p.answered) for p in journal.pending()] == [(at(1), False), (at(2), False)]
    assert (journal.req_cons, journal.rsp_prod) == (at(4), at(2))


def test_a_request_may_be_older_than_half_of_all_indices(file: int) -> None:
    """One that there is no room for waits while thousands of millions pass it."""
    journal = left_behind(file, {0: (5, 0, 0), 1: ((1 << 31) + 90, 0, 0)}, req_cons=(1 << 31) + 91,
                          rsp_prod=(1 << 31) + 89)
    assert journal.reconcile() == 2
    assert [p.idx for p in journal.pending()] == [5, (1 << 31) + 90]


def test_a_journal_that_contradicts_itself_is_refused(file: int) -> None:
    with pytest.raises(ProtocolError, match="1 requests that were not answered, and its indices say 3"):
        left_behind(file, {0: (4, 0, 0)}, req_cons=5, rsp_prod=2).reconcile()


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


def test_what_is_unanswered_is_told_without_opening_the_journal_as_a_worker_does(file: int, tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    assert unanswered(str(tmp_path / "none")) == unanswered(path) == []
    Journal.create(file, IDENTITY, ENTRIES)
    for slot, idx in (3, 0xFFFFFFFF), (9, 1):
        os.pwrite(file, struct.pack("=II", 1, idx), SLOTS + SLOT * slot)
    assert unanswered(path) == [], "the indices say that nothing is"
    os.pwrite(file, struct.pack("=I", 2), REQ_CONS)
    assert unanswered(path) == [0xFFFFFFFF, 1]
    os.pwrite(file, struct.pack("=I", VERSION + 1), 8)
    assert unanswered(path) == []


def test_of_a_journal_that_says_it_has_endless_slots_no_more_is_read_than_a_ring_can_have(
        file: int, tmp_path: Path) -> None:
    """A worker that was taken over may write anything there, and the manager reads it."""
    Journal.create(file, IDENTITY, ENTRIES)
    os.pwrite(file, struct.pack("=I", 0xFFFFFFFF), 12)
    os.pwrite(file, struct.pack("=I", 2), REQ_CONS)
    os.ftruncate(file, SLOTS + SLOT * 4096)
    for slot in range(4096):
        os.pwrite(file, struct.pack("=II", 1, slot), SLOTS + SLOT * slot)
    assert unanswered(str(tmp_path / "journal")) == list(range(512))
