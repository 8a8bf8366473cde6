"""Short, failed and interrupted transfers mean the same in every engine: the rules, without a disk."""
import errno

import pytest

from xenvbd.disk.probe import transfer

MIB = 1 << 20


def test_an_operation_that_is_done_at_once_takes_one_call() -> None:
    assert transfer("read", [4096], [4096]) == (0, [(0, 4096, 1)])
    assert transfer("write", [512, 1024], [1536]) == (0, [(0, 1536, 2)])
    assert transfer("flush", [], [0]) == (0, [(0, 0, 0)])


def test_a_short_read_is_tried_once_more_for_the_rest() -> None:
    assert transfer("read", [4096], [512, 3584]) == (0, [(0, 4096, 1), (512, 3584, 1)])


def test_a_read_that_stays_short_is_an_error() -> None:
    assert transfer("read", [4096], [512, 512]) == (-errno.EIO, [(0, 4096, 1), (512, 3584, 1)])


def test_a_read_of_nothing_is_the_end_of_the_file_and_an_error() -> None:
    assert transfer("read", [4096], [0])[0] == -errno.EIO
    assert transfer("read", [4096], [512, 0])[0] == -errno.EIO


def test_the_rest_of_an_iovec_is_asked_for_alone_and_then_those_behind_it() -> None:
    assert transfer("read", [512, 1024, 512], [1024, 512, 512]) == (
        0, [(0, 2048, 3), (1024, 512, 1), (1536, 512, 1)])


def test_a_short_transfer_that_ends_with_an_iovec_goes_on_with_the_next() -> None:
    assert transfer("read", [512, 1024, 512], [512, 1536]) == (0, [(0, 2048, 3), (512, 1536, 2)])


def test_a_short_write_goes_on_as_long_as_it_makes_progress() -> None:
    assert transfer("write", [4096], [1024, 1024, 1024, 1024])[0] == 0
    assert transfer("write", [4096], [1024, 0])[0] == -errno.EIO


@pytest.mark.parametrize("op", ["read", "write"])
def test_an_interrupted_call_is_repeated_as_it_was(op: str) -> None:
    assert transfer(op, [512], [-errno.EINTR, -errno.EAGAIN, 512]) == (0, [(0, 512, 1)] * 3)
    assert transfer("flush", [], [-errno.EINTR, 0])[0] == 0


def test_a_call_that_is_interrupted_for_ever_is_an_error() -> None:
    result, calls = transfer("read", [512], [-errno.EAGAIN] * 2000)
    assert result == -errno.EIO and len(calls) == 1001


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_the_first_error_is_the_operations_also_after_a_part_was_done(code: int) -> None:
    assert transfer("write", [4096], [-code])[0] == -code
    assert transfer("write", [4096], [512, -code])[0] == -code
    assert transfer("flush", [], [-code])[0] == -code


def test_a_discard_goes_in_pieces_of_64_mib() -> None:
    assert transfer("discard", 130 * MIB, [64 * MIB, 64 * MIB, 2 * MIB]) == (
        0, [(0, 64 * MIB, 0), (64 * MIB, 64 * MIB, 0), (128 * MIB, 2 * MIB, 0)])
