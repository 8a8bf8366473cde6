"""Claim and fence: what is locked on which description, what keeps what out, and that it is unlocked."""
import errno
import os
from pathlib import Path

import pytest

from xenvbd.disk import locks
from xenvbd.disk.holders import holders, is_shown
from xenvbd.disk.locks import CLAIM_BYTE, EXCLUSIVE, FENCE_BYTE, SHARE_BYTE, SHARED
from xenvbd.errors import ClaimError, TargetError


@pytest.fixture
def opened_fd(tmp_path: Path, make_image):
    """opened_fd(flags): a description of one and the same image."""
    image, fds = make_image(tmp_path / "image"), []

    def opened(flags: int = os.O_RDWR) -> int:
        fds.append(os.open(image, flags))
        return fds[-1]

    yield opened
    for fd in fds:
        os.close(fd)


def claimed(fd: int, exclusive: bool = True) -> None:
    locks.claim(fd, "a.img", exclusive=exclusive)


def refused(call, *args, **options) -> ClaimError:
    with pytest.raises(ClaimError) as caught:
        call(*args, **options)
    return caught.value


def test_a_claim_keeps_other_claims_out_and_no_description_that_does_io(opened_fd) -> None:
    claimed(opened_fd())
    assert refused(claimed, opened_fd()).errno == errno.EBUSY
    assert refused(claimed, opened_fd(os.O_RDONLY), exclusive=False).errno == errno.EBUSY
    locks.fence(opened_fd(), "a.img", exclusive=True, name="1/51712")


def test_readers_and_writers_that_share_claim_together(opened_fd) -> None:
    claimed(opened_fd(os.O_RDONLY), exclusive=False)
    claimed(opened_fd(), exclusive=False)
    assert refused(claimed, opened_fd()).errno == errno.EBUSY


def test_a_fence_is_taken_once_no_other_description_is_left(opened_fd) -> None:
    first, second = opened_fd(), opened_fd()
    locks.fence(first, "a.img", exclusive=True, name="1/51712")
    assert refused(locks.fence, second, "a.img", exclusive=True, name="2/51712").errno == errno.EBUSY
    locks.unlock(first)
    locks.fence(second, "a.img", exclusive=True, name="2/51712")


def test_a_fence_waits_for_a_worker_of_0_1_as_well(opened_fd) -> None:
    worker, later = opened_fd(), opened_fd()
    locks.lock_image(worker, "a.img", exclusive=True, fence="1/51712")
    claimed(later)                                          # it serves on, under the claim of a new manager
    refused(locks.fence, opened_fd(), "a.img", exclusive=True, name="1/51712")
    refused(locks.fence, opened_fd(os.O_RDONLY), "a.img", exclusive=False, name=None)


def test_a_fence_leaves_the_share_byte_to_readers(opened_fd) -> None:
    locks.fence(opened_fd(), "a.img", exclusive=True, name="1/51712")
    assert not locks.is_free(opened_fd(), SHARE_BYTE) and locks.is_free(opened_fd(), SHARE_BYTE, kind=SHARED)


def test_the_fence_of_one_vbd_is_exclusive_even_among_writers_that_share(opened_fd) -> None:
    for name in "1/51712", "2/51712":
        locks.fence(opened_fd(), "a.img", exclusive=False, name=name)
    refused(locks.fence, opened_fd(), "a.img", exclusive=False, name="1/51712")


def test_a_lock_is_made_weaker_without_being_let_go(opened_fd) -> None:
    first, second = opened_fd(), opened_fd()
    assert locks.take(first, EXCLUSIVE, SHARE_BYTE) and not locks.take(second, SHARED, SHARE_BYTE)
    assert locks.take(first, SHARED, SHARE_BYTE) and locks.take(second, SHARED, SHARE_BYTE)
    assert not locks.take(first, EXCLUSIVE, SHARE_BYTE)


def test_unlocking_lets_all_bytes_of_a_description_go_and_no_other_s(opened_fd) -> None:
    first, second = opened_fd(), opened_fd()
    claimed(first)
    locks.fence(first, "a.img", exclusive=False, name="1/51712")
    locks.fence(second, "a.img", exclusive=False, name="2/51712")
    locks.unlock(first)
    assert locks.is_free(second, CLAIM_BYTE) and not locks.is_free(first, FENCE_BYTE, 1 << 32)


def test_unlocking_reaches_the_lock_however_many_copies_of_the_descriptor_there_are(opened_fd) -> None:
    first = opened_fd()
    claimed(first)
    copy = os.dup(first)
    locks.let_go(copy)
    claimed(opened_fd())


def test_the_lock_of_a_file_system_that_keeps_it_goes_by_unlocking_only(fuse_file) -> None:
    image = fuse_file("--locks")
    first, second, third = (os.open(image, os.O_RDWR) for _ in range(3))
    claimed(first)
    assert not is_shown(first) and not holders(first)
    locks.let_go(first)
    claimed(second)
    os.close(second)
    assert refused(claimed, third).errno == errno.EREMOTE       # closing alone leaves it there for good
    os.close(third)


def test_a_fence_that_another_host_has_is_refused_at_once_unless_it_was_ours(fuse_file) -> None:
    image = fuse_file("--locks")
    first, second = (os.open(image, os.O_RDWR) for _ in range(2))
    locks.fence(first, "a.img", exclusive=True, name="1/51712")
    for ours, number in (False, errno.EREMOTE), (True, errno.EINPROGRESS):
        assert refused(locks.fence, second, "a.img", exclusive=True, name="2/51712", ours=ours).errno == number
    for fd in first, second:
        locks.let_go(fd)


def test_a_file_system_without_locks_is_named_as_such(opened_fd, monkeypatch) -> None:
    def none(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("xenvbd.disk.locks.fcntl.fcntl", none)
    with pytest.raises(TargetError, match="cannot be locked: No locks available; --lock=off"):
        claimed(opened_fd())


def test_letting_go_closes_where_there_are_no_locks_too(opened_fd, monkeypatch) -> None:
    fd = os.dup(opened_fd())
    monkeypatch.setattr("xenvbd.disk.locks.fcntl.fcntl", lambda *arguments: os.close(-1))
    locks.let_go(fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
