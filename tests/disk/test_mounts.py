"""Mount tables: of our namespace and others, of devices with and without a number of their own."""
import os
import subprocess
from pathlib import Path

import pytest

from xenvbd.disk import mounts


@pytest.fixture
def mounted(run, loop_device: Path, tmp_path: Path):
    """mounted(*options): where the loop device is mounted, as ext4."""
    run("mkfs.ext4", "-q", loop_device)
    where = tmp_path / "a place"
    where.mkdir()

    def mount(*options: str) -> Path:
        run("mount", *options, loop_device, where)
        return where

    yield mount
    subprocess.run(["umount", str(where)], check=False)


def number(device: Path) -> int:
    return device.stat().st_rdev


def test_nothing_is_mounted_of_a_device_that_nobody_mounted(loop_device: Path) -> None:
    assert mounts.of_device(number(loop_device)) == []


@pytest.mark.parametrize(("option", "how"), [("rw", "read-write"), ("ro", "read-only")])
def test_a_mount_says_where_and_how(mounted, loop_device: Path, option: str, how: str) -> None:
    where = mounted("-o", option)
    assert str(mounts.of_device(number(loop_device))[0]) == f"mounted on {where}, {how}"


def test_a_mount_that_is_read_only_of_a_file_system_that_is_not_says_read_write(
        mounted, loop_device: Path, run) -> None:
    where = mounted()
    run("mount", "-o", "remount,bind,ro", where)
    assert all(mount.writable for mount in mounts.of_device(number(loop_device)))


def test_a_mount_of_another_namespace_is_found_and_its_process_named(run, loop_device: Path, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", loop_device)
    script = f"mount {loop_device} {tmp_path} && echo done && read line"
    other = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout.readline() == b"done\n"
        mount, = mounts.of_device(number(loop_device))
        assert str(mount) == f"mounted on {tmp_path} in the mount namespace of process {other.pid}, read-write"
        other.stdin.close()


def table(root: Path, process: str, *lines: str) -> None:
    """The mount table of a process of a made-up host."""
    (root / "proc" / process / "ns").mkdir(parents=True)
    (root / "proc" / process / "ns/mnt").symlink_to("mnt:[1]")
    (root / "proc" / process / "mountinfo").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/filesystems").write_text("nodev\ttmpfs\n\text4\n\tbtrfs\n")
    return tmp_path


def test_a_table_is_read_once_a_namespace(host: Path) -> None:
    line = "30 1 8:1 / /srv rw shared:7 - ext4 /dev/sda1 rw"
    for process in "self", "7", "8":
        table(host, process, line)
    assert [str(mount) for mount in mounts.of_device(os.makedev(8, 1), root=str(host))] == [
        "mounted on /srv, read-write"]


def test_a_file_system_without_the_number_of_its_device_is_found_by_its_source(host: Path, loop_device: Path) -> None:
    (host / "dev").symlink_to("/dev")
    table(host, "self", f"30 1 0:40 /sub /srv rw - btrfs {loop_device} rw")
    assert mounts.of_device(number(loop_device), root=str(host))


def test_what_a_user_calls_the_source_of_a_tmpfs_is_not_believed(host: Path, loop_device: Path) -> None:
    (host / "dev").symlink_to("/dev")
    table(host, "self", f"30 1 0:41 / /mnt/x/t rw - tmpfs {loop_device} rw")
    assert not mounts.of_device(number(loop_device), root=str(host))


def test_lines_that_are_none_are_passed_over(host: Path) -> None:
    table(host, "self", "", "nonsense", "1 2 8:1 / /a rw - ext4", r"30 1 8:1 / /a\040b ro - ext4 x ro")
    assert [mount.where for mount in mounts.of_device(os.makedev(8, 1), root=str(host))] == ["/a b"]
