"""What tells an image from another that has its path, its inode number or its device number."""
import dataclasses
import os
import subprocess

import pytest

from xenvbd.disk.identity import Identity


def made(path, content=b"x"):
    """The identity of a file that is made now."""
    path.write_bytes(content)
    return opened(path)


def opened(path):
    fd = os.open(path, os.O_RDWR)
    try:
        return Identity.of(fd)
    finally:
        os.close(fd)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.img"


def test_an_image_is_the_same_under_another_name_and_of_another_size(path, tmp_path):
    before = made(path)
    os.truncate(path, 8 << 20)
    path.rename(tmp_path / "b.img")
    assert before.difference(opened(tmp_path / "b.img")) == ""


def test_a_file_that_was_made_in_the_place_of_a_removed_one_is_another_though_its_inode_number_may_be_the_same(path):
    for _ in range(20):
        before = made(path)
        path.unlink()
        assert before.difference(made(path))


def test_a_reused_inode_number_is_told_by_its_generation(path):
    before = made(path)
    after = dataclasses.replace(before, generation="1:00", birth="")
    assert before.difference(after) == f"its inode's generation was {before.generation} and is 1:00"


def test_where_there_are_no_generations_the_birth_tells(path):
    before = dataclasses.replace(made(path), generation="", birth="1.5")
    assert before.difference(dataclasses.replace(before, birth="2.5")) == "its inode's birth was 1.5 and is 2.5"
    assert before.difference(dataclasses.replace(before, birth="")) == ""


def test_a_file_system_that_was_mounted_anew_is_told_by_its_own_number(path):
    """NFS, btrfs and overlayfs get another st_dev with each mount."""
    before = dataclasses.replace(made(path), fsid="12", dev=5)
    assert before.difference(dataclasses.replace(before, dev=6)) == ""
    assert before.difference(dataclasses.replace(before, fsid="13")) == "its file system was 12 and is 13"


def test_a_device_number_that_is_used_again_is_told_by_the_disks_sequence_number_and_the_partitions_place():
    disk = Identity(True, os.makedev(7, 0), diskseq=12, start=0, boot="b")
    assert "disk sequence number was 12 and is 13" in disk.difference(dataclasses.replace(disk, diskseq=13))
    assert "first sector was 0 and is 2048" in disk.difference(dataclasses.replace(disk, start=2048))
    assert "device number was 7:0 and is 7:1" in disk.difference(dataclasses.replace(disk, dev=os.makedev(7, 1)))


def test_nothing_is_the_same_after_the_host_was_booted(path):
    before = made(path)
    assert "host's boot" in before.difference(dataclasses.replace(before, boot="another"))


def test_a_file_is_no_device(path):
    before = made(path)
    assert "regular file" in before.difference(dataclasses.replace(before, is_block=True))


def test_a_loop_device_that_was_pointed_at_another_file_is_another_disk(loop_device, tmp_path):
    before, other = opened(loop_device), tmp_path / "other.img"
    assert before.is_block and before.diskseq and before.number == (before.dev, 0)
    other.write_bytes(bytes(4 << 20))
    repoint(loop_device, other)
    assert "disk sequence number" in before.difference(opened(loop_device))


def repoint(device, path):
    """losetup -d DEVICE; losetup DEVICE PATH."""
    subprocess.run(["losetup", "-d", device], check=True)
    subprocess.run(["losetup", device, path], check=True)


def test_what_a_record_keeps_of_it_is_the_same(path):
    before = made(path)
    assert Identity.from_json(before.to_json()) == before
