"""The uring engine makes one system call a batch, and leaves to the calling thread what io_uring is bad at."""
import os
from pathlib import Path

import pytest

from xenvbd.disk import Disk
from xenvbd.disk.opener import unavailable
from xenvbd.disk.probe import Session

pytestmark = pytest.mark.skipif(bool(unavailable()), reason="io_uring is not available on this host")
MIB = 1 << 20


@pytest.fixture
def ring_disk(tmp_path: Path, make_image, opened) -> Disk:
    return opened(make_image(tmp_path / "image", fill=b"x" * 512), engine="uring", direct=False)


def test_a_batch_of_any_size_is_submitted_by_one_system_call(ring_disk: Disk) -> None:
    with Session(ring_disk, depth=64, slot_bytes=4096) as session:
        for i in range(64):
            session.submit("read", i * 4096, 4096)
        assert session.system_calls == 0
        assert session.reap() and session.system_calls == 1


def test_sleep_submits_arms_and_waits_in_one_system_call(ring_disk: Disk) -> None:
    event = os.eventfd(1)
    with Session(ring_disk) as session:
        session.watch(event, 3)
        session.submit("read", 0, 4096)
        session.sleep(5)
        assert session.system_calls == 1
        assert session.reap() and session.system_calls == 1
        assert session.sleep(5) == {3} and session.system_calls == 2
    os.close(event)


def test_looking_makes_no_system_call_when_there_is_nothing_to_do(ring_disk: Disk) -> None:
    with Session(ring_disk) as session:
        for _ in range(10):
            assert session.reap() == {} and session.sleep(0) == set()
        assert session.system_calls == 0


def test_a_descriptor_that_was_read_before_sleep_saw_it_is_not_reported(ring_disk: Disk) -> None:
    event = os.eventfd(0)
    with Session(ring_disk) as session:
        session.watch(event, 0)
        assert session.sleep(0.001) == set()
        os.eventfd_write(event, 1)
        assert session.reap() == {}         # takes the poll's completion
        os.eventfd_read(event)
        assert session.sleep(0.001) == set()
        os.eventfd_write(event, 1)
        assert session.sleep(5) == {0}
    os.close(event)


def test_copies_in_memory_are_made_in_place(place: Path, make_image, opened) -> None:
    disk = opened(make_image(place / "image", fill=b"x" * 512), engine="uring", direct=False)
    on_tmpfs = str(place).startswith("/dev/shm")
    assert disk.inline_reads == on_tmpfs
    with Session(disk, depth=4) as session:
        slots = [session.submit("read", i * 4096, 4096) for i in range(4)]
        done = session.reap(5)
        assert done == dict.fromkeys(slots, 0)
        assert session.system_calls == (4 if on_tmpfs else 1)


def test_buffered_writes_to_ext4_are_made_in_place_and_fua_ones_are_not(ring_disk: Disk, run, tmp_path) -> None:
    if run("stat", "--file-system", "--format=%T", tmp_path) != "ext2/ext3":
        pytest.skip("the temporary directory is not on ext4")
    with Session(ring_disk) as session:
        slot = session.submit("write", 0, b"a" * 4096)
        assert session.reap() == {slot: 0} and ring_disk.inline_writes
        session.write(0, b"b" * 4096, fua=True)
        assert session.read(0, 4096) == b"b" * 4096


def test_direct_writes_are_left_to_the_kernel(tmp_path: Path, make_image, opened) -> None:
    disk = opened(make_image(tmp_path / "image"), engine="uring")
    assert disk.direct and not disk.inline_writes and not disk.inline_reads


def polls() -> int:
    """Polls that io_urings of this process have in the kernel."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    rings = [link.name for link in links if "io_uring" in os.readlink(link)]
    return sum(Path(f"/proc/self/fdinfo/{name}").read_text().count("op=6,") for name in rings)


@pytest.mark.parametrize("forget", [lambda session: session.forget_buffer(), lambda session: session.forget_page(1)],
                         ids=["buffer", "page"])
def test_no_poll_is_in_the_kernel_when_memory_is_forgotten(ring_disk: Disk, forget) -> None:
    """Linux 6.1 would wait for its end, or keep the memory until then."""
    event = os.eventfd(0)
    with Session(ring_disk) as session:
        session.register_page(1, slot=0)
        session.watch(event, 3)
        assert session.sleep(0.001) == set() and polls() == 1
        forget(session)
        assert polls() == 0
        os.eventfd_write(event, 1)
        assert session.sleep(5) == {3}
    os.close(event)


def test_a_registered_page_goes_by_its_number_until_it_is_forgotten(ring_disk: Disk) -> None:
    with Session(ring_disk, depth=1, slot_bytes=4096, register=False) as session:
        session.write(4096, b"y" * 4096)
        session.register_page(3, slot=0)
        assert session.read(4096, 4096, page=3) == b"y" * 4096
        assert session.read(4096 + 512, 1024, page=3) == b"y" * 1024
        session.forget_page(3)
        with pytest.raises(OSError, match="Bad address"):       # the page's number was used, not its address
            session.read(4096, 4096, page=3)
        assert session.read(4096, 4096) == b"y" * 4096


def test_a_page_and_the_buffer_can_be_registered_beside_each_other(ring_disk: Disk) -> None:
    with Session(ring_disk, depth=1, slot_bytes=4096) as session:
        session.register_page(2047, slot=0)
        session.write(0, b"z" * 4096)
        assert session.read(0, 4096, page=2047) == session.read(0, 4096) == b"z" * 4096


@pytest.mark.parametrize("number", [0, 2048])
def test_there_is_room_for_so_many_pages(ring_disk: Disk, number: int) -> None:
    with Session(ring_disk) as session, pytest.raises(OSError, match="Invalid argument"):
        session.register_page(number, slot=0)


def test_no_page_is_registered_of_a_disk_whose_copies_are_made_in_place(place: Path, make_image, opened) -> None:
    disk = opened(make_image(place / "image"), engine="uring", direct=False)
    with Session(disk) as session:
        if disk.inline_reads and disk.inline_writes:
            with pytest.raises(OSError, match="not supported"):
                session.register_page(1, slot=0)
        else:
            session.register_page(1, slot=0)


def test_memory_outside_the_registered_buffer_is_used_all_the_same(ring_disk: Disk) -> None:
    with Session(ring_disk, register=False) as session:
        session.write(0, b"y" * 8192, segments=2)
        assert session.read(0, 8192, segments=4) == b"y" * 8192
