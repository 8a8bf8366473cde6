"""A claim looks at who else has the image, once, and holds it against others, unless it is told not to."""
import contextlib
import os
from pathlib import Path

import pytest

from xenvbd.disk import locks, places
from xenvbd.disk.claim import Claim
from xenvbd.disk.image import open_image
from xenvbd.errors import ClaimError


@pytest.fixture
def claimed():
    """claimed(path, **options): a claim, as Claim.take()."""
    with contextlib.ExitStack() as claims:
        def take(path: Path, **options: object) -> Claim:
            where = places.find(str(path), ["/"])
            try:
                claim = Claim.take(str(path), where, **({"read_only": False, "share": False} | options))
            finally:
                os.close(where)
            claims.callback(claim.close)
            return claim

        yield take


@pytest.fixture
def image(tmp_path: Path, make_image) -> Path:
    return make_image(tmp_path / "image")


def opened(claim: Claim, **options: object):
    return claim.image(read_only=claim.read_only, direct=None, logical_block_size=512, alone=True,
                       **({"writer": "1/51712"} | options))


def test_a_claim_keeps_out_who_opens_the_image_without_one(image: Path, claimed) -> None:
    claimed(image)
    for share in False, True:
        with pytest.raises(ClaimError, match=f"locked by process {os.getpid()} "):
            open_image(str(image), read_only=False, share=share)


def test_what_the_host_does_with_an_image_is_looked_at(loop_device: Path, tmp_path: Path, claimed) -> None:
    with pytest.raises(ClaimError, match=f"under {loop_device}"):
        claimed(tmp_path / "backing")
    claimed(tmp_path / "backing", share=True)           # as xl's w!


def test_an_image_that_a_disk_had_already_is_taken_again_whatever_came_over_it(
        image: Path, claimed, run) -> None:
    identity = claimed(image).identity
    device = run("losetup", "--find", "--show", image)
    try:
        claimed(image, expected=identity, lock=False)
    finally:
        run("losetup", "--detach", device)


def test_without_a_lock_neither_the_claim_nor_its_descriptions_are_locked(image: Path, claimed) -> None:
    first, second = claimed(image, lock=False), claimed(image, lock=False)
    with os.fdopen(opened(first).fd), os.fdopen(opened(second).fd) as file:
        assert locks.is_free(file.fileno(), 0, 0)


def test_an_image_whose_file_system_has_no_locks_is_claimed_without(fuse_file, claimed) -> None:
    image = fuse_file("--no-locks")
    with pytest.raises(OSError, match="cannot be locked: No locks available; --lock=off"):
        claimed(image)
    os.close(opened(claimed(image, lock=False)).fd)
