"""What may be read from a sector, and how a wrong one is named."""
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd.frontend.shadow import Shadow

ZEROS = bytes(512)
CHUNK = 2048                    # sectors that are touched or forgotten together


def written(shadow: Shadow, sector: int, count: int = 1) -> bytes:
    """Write the next version there, and have it answered."""
    version = shadow.sent(sector, count)
    shadow.answered(sector, count, version)
    return shadow.bytes_of(sector, count, version)


def test_a_blank_disk_reads_zeros_and_nothing_else() -> None:
    shadow = Shadow(8)
    assert shadow.mismatch(0, ZEROS * 8) is None
    assert "sector 3: expected zeros (never written), read no pattern: 78 78" in str(shadow.mismatch(3, b"x" * 512))


def test_a_disk_that_is_not_blank_may_hold_anything_until_it_is_written() -> None:
    shadow = Shadow(8, blank=False)
    assert shadow.mismatch(0, b"x" * 512) is None
    written(shadow, 0)
    assert shadow.mismatch(0, b"x" * 512)


def test_what_was_written_last_is_right() -> None:
    shadow = Shadow(8)
    data = written(shadow, 2, 3)
    assert shadow.mismatch(2, data) is None
    assert len({data[i * 512:(i + 1) * 512] for i in range(3)}) == 3


def test_an_old_version_is_stale() -> None:
    shadow = Shadow(8)
    old = written(shadow, 1)
    written(shadow, 1)
    assert shadow.mismatch(1, old) == "sector 1: expected version 2, read version 1 (stale)"


def test_a_write_that_never_landed_reads_as_zeros_and_is_named() -> None:
    shadow = Shadow(8)
    written(shadow, 1)
    assert shadow.mismatch(1, ZEROS) == "sector 1: expected version 1, read zeros"


def test_another_sectors_data_is_named() -> None:
    shadow = Shadow(8)
    data = written(shadow, 0, 8)
    assert shadow.mismatch(4, data[5 * 512:6 * 512]) == (
        "sector 4: expected version 1, read sector 5 version 1 (another sector's data)")


def test_another_runs_data_is_named() -> None:
    shadow = Shadow(8)
    written(shadow, 0)
    assert "of another run (seed 9)" in str(shadow.mismatch(0, written(Shadow(8, seed=9), 0)))


def test_a_version_that_was_never_sent_is_named() -> None:
    shadow = Shadow(8)
    written(shadow, 0)
    assert shadow.mismatch(0, shadow.bytes_of(0, 1, 7)) == (
        "sector 0: expected version 1, read version 7 (never sent here)")


def test_a_torn_sector_is_named_to_the_byte() -> None:
    shadow = Shadow(8)
    old, new = written(shadow, 5), written(shadow, 5)
    assert shadow.mismatch(5, new[:256] + old[256:]) == (
        "sector 5: expected version 2, read a torn sector: sector 5 version 2 up to byte 256, then version 1")


@given(st.integers(0, 511), st.integers(1, 255))
def test_any_changed_byte_is_found(byte: int, flip: int) -> None:
    shadow = Shadow(2)
    data = bytearray(written(shadow, 1))
    data[byte] ^= flip
    assert shadow.mismatch(1, bytes(data))


def test_while_a_write_is_unanswered_or_has_failed_both_versions_may_be_read() -> None:
    shadow = Shadow(8)
    old = written(shadow, 0)
    new = shadow.bytes_of(0, 1, shadow.sent(0, 1))
    assert shadow.mismatch(0, old) is None
    assert shadow.mismatch(0, new) is None
    assert shadow.mismatch(0, ZEROS) == "sector 0: expected versions 1 to 2, read zeros"
    written(shadow, 0)
    assert shadow.mismatch(0, new) == "sector 0: expected version 3, read version 2 (stale)"


def test_after_a_discard_zeros_may_be_read_as_well() -> None:
    shadow = Shadow(8)
    old = written(shadow, 0)
    shadow.discarded(0, 1)
    assert shadow.mismatch(0, old) is None
    assert shadow.mismatch(0, ZEROS) is None
    assert "version 1 or zeros (discarded)" in str(shadow.mismatch(0, b"x" * 512))
    written(shadow, 0)
    assert shadow.mismatch(0, ZEROS)


def test_bytes_of_the_callers_own_are_held_to_as_well() -> None:
    shadow = Shadow(8)
    shadow.wrote(3, b"a" * 512 + b"b" * 512)
    assert shadow.mismatch(3, b"a" * 512 + b"b" * 512) is None
    assert "sector 4: expected the bytes written last" in str(shadow.mismatch(3, b"a" * 1024))


def test_nothing_can_be_read_past_the_end() -> None:
    assert Shadow(8).mismatch(7, ZEROS * 2) == "sector 8: expected an error, for the disk ends at sector 8, read zeros"


@pytest.mark.parametrize("sector", [8, 2**63, 2**64 - 1])
def test_writes_past_the_end_are_not_remembered(sector: int) -> None:
    shadow = Shadow(8)
    shadow.answered(sector, 2, shadow.sent(sector, 2))
    shadow.unknown(sector, 2)
    assert shadow.mismatch(0, ZEROS * 8) is None


def test_the_digest_is_that_of_the_image() -> None:
    shadow = Shadow(5000)
    image = bytearray(5000 * 512)
    image[512:1536] = written(shadow, 1, 2)
    shadow.wrote(4000, b"l" * 512)
    image[4000 * 512:4001 * 512] = b"l" * 512
    assert shadow.digest() == hashlib.sha256(image).hexdigest()
    assert shadow.digest(2) == hashlib.sha256(image[:1024]).hexdigest()


def test_there_is_no_digest_of_what_may_be_two_things() -> None:
    shadow = Shadow(8)
    written(shadow, 0, 8)
    shadow.discarded(3, 1)
    assert shadow.uncertain(0, 8) == [3]
    with pytest.raises(ValueError, match="sector 3 may hold more than one content"):
        shadow.digest()


def test_a_disk_that_grows_reads_zeros_behind() -> None:
    shadow = Shadow(8)
    data = written(shadow, 7)
    shadow.resize(16)
    assert shadow.mismatch(7, data + ZEROS * 8) is None


def test_what_a_larger_disk_held_behind_is_gone_when_it_grows_again() -> None:
    shadow = Shadow(3 * CHUNK)
    for sector in (10, CHUNK, 3 * CHUNK - 1):
        written(shadow, sector)
    shadow.unknown(CHUNK, CHUNK)
    shadow.resize(9)
    shadow.resize(5 * CHUNK)
    assert [shadow.mismatch(sector, ZEROS) for sector in (10, CHUNK, 3 * CHUNK - 1, 5 * CHUNK - 1)] == [None] * 4
    assert shadow.mismatch(CHUNK + 1, b"x" * 512)


@pytest.mark.parametrize("first, count", [(0, 4 * CHUNK), (5, 3 * CHUNK), (CHUNK, CHUNK), (CHUNK - 1, 2), (7, 1)])
def test_a_forgotten_region_may_hold_anything_and_the_rest_what_it_did(first: int, count: int) -> None:
    shadow = Shadow(4 * CHUNK)
    shadow.unknown(first, count)
    for sector in {0, first - 1, first, first + count - 1, first + count, 4 * CHUNK - 1} & set(range(4 * CHUNK)):
        inside = first <= sector < first + count
        assert (shadow.mismatch(sector, b"x" * 512) is None) == inside, sector
        assert shadow.uncertain(sector, 1) == [sector] * inside
    written(shadow, first)
    assert shadow.mismatch(first, ZEROS) is not None
    assert count == 1 or shadow.mismatch(first + 1, b"x" * 512) is None


def test_what_is_written_in_a_forgotten_region_is_certain_again() -> None:
    shadow = Shadow(2 * CHUNK)
    shadow.unknown(0, 2 * CHUNK)
    for sector in range(2 * CHUNK):
        written(shadow, sector)
    assert shadow.uncertain(0, 2 * CHUNK) == []


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_disk_larger_than_memory_takes_what_is_touched() -> None:
    sectors, before = 16 << 40 >> 9, resident()
    shadow = Shadow(sectors)
    for sector in range(0, sectors, sectors // 100):
        assert shadow.mismatch(sector, ZEROS) is None
        written(shadow, sector)
    shadow.resize(2 * sectors)
    shadow.unknown(0, 2 * sectors)
    assert shadow.mismatch(2 * sectors - 1, b"x" * 512) is None
    assert resident() - before < 128 << 20, "it takes more than a byte a MiB, and what was written"


def test_no_disk_has_so_many_sectors() -> None:
    with pytest.raises(ValueError, match="no disk is that large"):
        Shadow(2**60)
