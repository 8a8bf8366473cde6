"""Disks on files and block devices: what both engines do when the file is not what it was, and at its end."""
import errno
import os
from pathlib import Path

import pytest

from tests.support.growth import growing, mappings
from tests.support.guest import until
from xenvbd.disk import open_image
from xenvbd.disk.opener import FILE_ENGINES
from xenvbd.disk.probe import Session
from xenvbd.errors import ClaimError, TargetError

MIB = 1 << 20


@pytest.fixture(params=FILE_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["direct", "buffered"])
def direct(request: pytest.FixtureRequest) -> bool:
    return request.param


def failure(call, *args, **options) -> int:
    with pytest.raises(OSError) as caught:
        call(*args, **options)
    return caught.value.errno


# The file.

@pytest.mark.parametrize("segments", [1, 4])
def test_a_truncated_image_gives_errors_and_never_zeros(
        tmp_path: Path, make_image, opened, engine: str, direct: bool, segments: int) -> None:
    path = make_image(tmp_path / "image", fill=b"x" * 512)
    disk = opened(path, engine=engine, direct=direct)
    os.truncate(path, MIB)
    with Session(disk) as session:
        assert session.read(MIB - 4096, 4096, segments=segments) == b"x" * 4096
        for offset in (MIB - 512, MIB - 2048, MIB, 3 * MIB):
            assert failure(session.read, offset, 4096, segments=segments) == errno.EIO


def test_a_full_file_system_is_enospc_and_there_is_room_again_afterwards(
        small_place: Path, make_image, opened, engine: str) -> None:
    disk = opened(make_image(small_place / "image", 64 * MIB), engine=engine)
    with Session(disk) as session:
        errors = set()
        for offset in range(0, 48 * MIB, MIB):
            try:
                session.write(offset, os.urandom(MIB))
                session.flush()
            except OSError as error:
                errors.add(error.errno)
        assert errors == {errno.ENOSPC}
        session.discard(0, 48 * MIB)
        session.write(32 * MIB, b"a" * 4096)
        assert session.read(32 * MIB, 4096) == b"a" * 4096


def test_a_discard_frees_the_blocks_of_the_file(place: Path, make_image, opened, engine: str) -> None:
    path = make_image(place / "image", fill=b"x" * 4096)
    os.sync()
    full = path.stat().st_blocks
    with Session(opened(path, engine=engine)) as session:
        session.discard(MIB, 2 * MIB)
        assert session.read(MIB, MIB) == bytes(MIB)
    assert path.stat().st_blocks <= full - 2 * MIB // 512
    assert path.stat().st_size == 4 * MIB


def test_discards_of_several_pieces_and_more_than_may_be_in_flight_are_all_done(
        tmp_path: Path, make_image, opened, engine: str) -> None:
    disk = opened(make_image(tmp_path / "image", 1 << 30), engine=engine)
    with Session(disk, depth=16, slot_bytes=4096) as session:
        for at in range(0, 1 << 30, 32 * MIB):
            session.write(at + 4096, b"x" * 512)
        waiting = {session.submit("discard", at, 128 * MIB) for at in range(0, 1 << 30, 128 * MIB)}
        waiting |= {session.submit("flush")}
        while waiting:
            done = session.reap(30)
            assert done and set(done) <= waiting and set(done.values()) == {0}
            waiting -= set(done)
            for slot in done:
                session.take(slot)
        assert all(session.read(at + 4096, 512) == bytes(512) for at in range(0, 1 << 30, 32 * MIB))


def test_a_disk_without_discard_refuses_it(tmp_path: Path, make_image, opened, engine: str) -> None:
    with Session(opened(make_image(tmp_path / "image"), engine=engine, discard=False)) as session:
        assert failure(session.discard, 0, 4096) == errno.EOPNOTSUPP


def test_a_read_only_disk_refuses_what_would_change_it(tmp_path: Path, make_image, opened, engine: str) -> None:
    path = make_image(tmp_path / "image", fill=b"x" * 512)
    disk = opened(path, engine=engine, read_only=True)
    with Session(disk) as session:
        assert failure(session.write, 0, bytes(512)) == errno.EROFS
        assert failure(session.discard, 0, 512) == errno.EROFS
        session.flush()
        assert session.read(0, 512) == b"x" * 512
    assert path.read_bytes() == b"x" * 4 * MIB


def test_opening_and_probing_change_nothing(place: Path, make_image, opened, engine: str, direct: bool) -> None:
    path = make_image(place / "image", fill=b"x" * 512)
    blocks = path.stat().st_blocks
    opened(path, engine=engine, direct=None if direct else False).close()
    assert path.read_bytes() == b"x" * 4 * MIB and path.stat().st_blocks == blocks


def test_on_tmpfs_data_goes_in_and_out_too(place: Path, make_image, opened, engine: str) -> None:
    with Session(opened(make_image(place / "image"), engine=engine), depth=32, slot_bytes=8192) as session:
        for op in ("write", "read"):
            result = session.load(0.05, op=op, block=8192)
            assert result["ops"] and not result["errors"]
        session.write(4096, b"ab" * 4096, segments=2, fua=True)
        assert session.read(4096, 8192, segments=2) == b"ab" * 4096


# The descriptor and its lock.

def test_a_disk_cannot_be_closed_under_an_attached_queue(tmp_path: Path, make_image, opened, engine: str) -> None:
    disk = opened(make_image(tmp_path / "image"), engine=engine)
    with Session(disk):
        assert failure(disk.close) == errno.EBUSY
    disk.close()
    disk.close()


def test_the_lock_goes_when_the_disk_is_closed_and_not_before(
        tmp_path: Path, make_image, opened, engine: str) -> None:
    path = str(make_image(tmp_path / "image"))
    disk = opened(path, engine=engine)
    with Session(disk) as session, pytest.raises(ClaimError):
        session.write(0, b"x" * 512)
        open_image(path, read_only=False)
    disk.close()
    open_image(path, read_only=False).close()


def test_a_thousand_disks_leave_no_descriptor_thread_or_mapping(
        tmp_path: Path, make_image, opened, engine: str) -> None:
    path = make_image(tmp_path / "image")

    def cycle() -> None:
        disk = opened(path, engine=engine)
        with Session(disk, depth=4, slot_bytes=4096) as session:
            session.watch(0, 0)
            session.write(0, b"x" * 512)
        disk.close()

    cycle()
    before = footprint()
    assert growing(lambda: [cycle() for _ in range(500)], mappings) == {}
    until(lambda: all(now <= then for now, then in zip(footprint(), before, strict=True)),
          20)       # the kernel's workers of a ring end soon after it


def footprint() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


# Block devices.

def test_a_block_device_is_a_disk(loop_device: Path, opened, engine: str, direct: bool) -> None:
    disk = opened(loop_device, engine=engine, direct=direct)
    assert disk.is_block and disk.size == 16 * MIB and disk.direct == direct
    with Session(disk) as session:
        session.write(MIB, b"ab" * 4096, segments=2)
        session.flush()
        assert session.read(MIB - 512, 9216) == bytes(512) + b"ab" * 4096 + bytes(512)
        session.discard(MIB, 8192)
        assert session.read(MIB, 8192) == bytes(8192)
        assert failure(session.write, 16 * MIB, bytes(512)) == errno.EINVAL


def test_a_flush_and_a_fua_write_reach_the_device(loop_device: Path, opened, engine: str) -> None:
    def flushes() -> int:
        return int(Path(f"/sys/block/{loop_device.name}/stat").read_text().split()[15])

    with Session(opened(loop_device, engine=engine)) as session:
        for call in (lambda: session.write(0, b"x" * 512, fua=True), session.flush):
            before = flushes()
            call()
            assert flushes() > before


def test_a_discard_of_a_device_reaches_what_is_below(
        loop_device: Path, tmp_path: Path, opened, engine: str) -> None:
    with Session(opened(loop_device, engine=engine)) as session:
        for at in range(0, 8 * MIB, MIB):
            session.write(at, os.urandom(MIB))
        session.flush()
        os.sync()
        full = (tmp_path / "backing").stat().st_blocks
        session.discard(0, 8 * MIB)
        session.flush()
    assert (tmp_path / "backing").stat().st_blocks <= full - 8 * MIB // 512


def test_a_second_writer_of_a_device_is_refused_by_name(loop_device: Path, opened, engine: str) -> None:
    opened(loop_device, engine=engine)
    with pytest.raises(ClaimError, match="in use"):
        open_image(str(loop_device), read_only=False)
    with pytest.raises(ClaimError, match=f"locked by process {os.getpid()} "):
        open_image(str(loop_device), read_only=False, share=True)


def test_a_mounted_device_is_refused_saying_where(loop_device: Path, tmp_path: Path, run) -> None:
    (tmp_path / "mnt").mkdir()
    run("mkfs.ext4", "-q", loop_device)
    run("mount", loop_device, tmp_path / "mnt")
    try:
        with pytest.raises(ClaimError, match=f"mounted on {tmp_path}/mnt"):
            open_image(str(loop_device), read_only=False)
    finally:
        run("umount", tmp_path / "mnt")


def test_a_read_only_device_is_refused_for_writing(tmp_path: Path, make_image, run) -> None:
    device = run("losetup", "--find", "--show", "--read-only", make_image(tmp_path / "image"))
    try:
        with pytest.raises(TargetError, match="attach it read-only"):
            open_image(device, read_only=False)
        open_image(device, read_only=True).close()
    finally:
        run("losetup", "--detach", device)
