"""What of this host keeps an image from being attached: by name, with what to do, and what stays allowed."""
import errno
import os
import subprocess
from pathlib import Path

import pytest

from xenvbd.disk import locks, users
from xenvbd.errors import ClaimError


@pytest.fixture
def description():
    """description(path, flags): an open file description."""
    fds = []

    def opened(path: Path, flags: int = os.O_RDWR) -> int:
        fds.append(os.open(path, flags))
        return fds[-1]

    yield opened
    for fd in fds:
        os.close(fd)


@pytest.fixture
def mounted(run, loop_device: Path, tmp_path: Path):
    """mounted(option): where the loop device is mounted."""
    run("mkfs.ext4", "-q", loop_device)
    where = tmp_path / "mnt"
    where.mkdir()

    def mount(option: str) -> Path:
        run("mount", "-o", option, loop_device, where)
        return where

    yield mount
    subprocess.run(["umount", str(where)], check=False)


def checked(fd: int, read_only: bool = False) -> None:
    users.check(fd, "/srv/a.img", read_only=read_only)


def refused(fd: int, **options: bool) -> str:
    with pytest.raises(ClaimError) as caught:
        checked(fd, **options)
    assert caught.value.errno == errno.EBUSY
    return str(caught.value)


# Devices.

def test_a_device_that_nobody_uses_is_for_anybody(loop_device: Path, description) -> None:
    for read_only in False, True:
        checked(description(loop_device), read_only=read_only)


def test_what_is_mounted_read_write_is_for_nobody(loop_device: Path, mounted, description) -> None:
    where = mounted("rw")
    for read_only in False, True:
        assert refused(description(loop_device), read_only=read_only).endswith(
            f"in use: mounted on {where}, read-write; unmount {where} first")


def test_what_is_mounted_read_only_may_be_read(loop_device: Path, mounted, description, run) -> None:
    run("blockdev", "--setro", loop_device)             # or ext4 recovers its journal, and writes
    mounted("ro")
    run("blockdev", "--setrw", loop_device)
    checked(description(loop_device), read_only=True)
    assert "read-only; unmount" in refused(description(loop_device))


def test_what_another_process_has_for_itself_is_for_nobody(loop_device: Path, description) -> None:
    description(loop_device, os.O_RDWR | os.O_EXCL)
    for read_only in False, True:
        assert f"open in process {os.getpid()} (" in refused(description(loop_device), read_only=read_only)


def test_a_look_of_another_s_is_waited_for(loop_device: Path, description, monkeypatch) -> None:
    other = os.open(loop_device, os.O_RDONLY | os.O_EXCL)
    monkeypatch.setattr("xenvbd.disk.users.time.sleep", lambda seconds: os.close(other))
    checked(description(loop_device), read_only=True)


# Files, and loop devices over them.

def test_a_file_under_a_loop_device_is_not_for_a_writer(loop_device: Path, tmp_path: Path, description) -> None:
    assert refused(description(tmp_path / "backing")).endswith(
        f"in use: under {loop_device}; take it down (losetup --detach {loop_device}) first")
    checked(description(tmp_path / "backing"), read_only=True)          # nobody writes there at the moment


def test_a_file_whose_loop_device_is_mounted_is_not_for_a_reader_either(
        loop_device: Path, mounted, tmp_path: Path, description) -> None:
    where = mounted("rw")
    assert f"under {loop_device}, which is mounted on {where}, read-write; unmount {where}" in refused(
        description(tmp_path / "backing"), read_only=True)


def test_a_loop_device_that_only_reads_harms_nobody(run, tmp_path: Path, make_image, description) -> None:
    image = make_image(tmp_path / "image")
    device = run("losetup", "--find", "--show", "--read-only", image)
    try:
        checked(description(image))
    finally:
        run("losetup", "--detach", device)


def test_a_loop_device_over_a_file_that_a_disk_has_is_refused(loop_device: Path, tmp_path: Path, description) -> None:
    backing = tmp_path / "backing"
    locks.claim(description(backing), str(backing), exclusive=True)
    for read_only in False, True:
        assert f"over {backing}, which is locked by process {os.getpid()} " in refused(
            description(loop_device), read_only=read_only)


def test_a_second_loop_device_over_the_same_file_is_named(loop_device: Path, tmp_path: Path, description, run) -> None:
    second = run("losetup", "--find", "--show", tmp_path / "backing")
    try:
        assert f"over {tmp_path}/backing, as {second} is" in refused(description(loop_device))
    finally:
        run("losetup", "--detach", second)


# A made-up host, for what there is not on every machine.

class Host:
    """/sys, /proc and /dev of a host with disks that a test makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys/dev/block").mkdir(parents=True)
        (root / "proc/self/ns").mkdir(parents=True)
        (root / "proc/self/ns/mnt").symlink_to("mnt:[1]")
        (root / "proc/self/mountinfo").touch()

    def device(self, path: str, number: str) -> Path:
        device = self.root / "sys/devices" / path
        (device / "holders").mkdir(parents=True)
        (device / "dev").write_text(f"{number}\n")
        (self.root / "sys/dev/block" / number).symlink_to(device)
        return device

    def partition(self, path: str, number: str) -> None:
        (self.device(path, number) / "partition").write_text("1\n")

    def held(self, device: Path, holder: Path) -> None:
        (device / "holders" / holder.name).symlink_to(holder)

    def mount(self, number: str, where: str, how: str = "rw") -> None:
        with open(self.root / "proc/self/mountinfo", "a") as table:
            table.write(f"30 1 {number} / {where} rw - ext4 /dev/x {how}\n")

    def uses(self, number: str) -> list[str]:
        status = users.status_of(os.makedev(*map(int, number.split(":"))))
        return [f"{use.who}: {use.advice} [{'writes' if use.writes else 'reads'}]"
                for use in users.uses(status, root=str(self.root))]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_logical_volume_that_is_mounted_names_both(host: Host) -> None:
    volume = host.device("dm-0", "253:0")
    (volume / "dm").mkdir()
    (volume / "dm/name").write_text("vg0-root\n")
    host.held(host.device("sda", "8:0"), volume)
    assert host.uses("8:0") == ["part of vg0-root: take vg0-root down [reads]"]
    host.mount("253:0", "/srv")
    assert host.uses("8:0") == ["part of vg0-root, which is mounted on /srv, read-write: unmount /srv [writes]"]


def test_a_member_of_a_raid_names_it(host: Host) -> None:
    host.held(host.device("sda", "8:0"), host.device("md127", "9:127"))
    assert host.uses("8:0") == ["part of md127: take md127 down [reads]"]


def test_a_mounted_partition_keeps_the_whole_disk(host: Host) -> None:
    host.device("sda", "8:0")
    host.partition("sda/sda1", "8:1")
    host.partition("sda/sda2", "8:2")
    host.mount("8:2", "/", "ro")
    assert host.uses("8:0") == ["its partition sda2 is mounted on /, read-only: unmount / [reads]"]
    assert host.uses("8:1") == []


def test_a_mounted_disk_keeps_its_partition(host: Host) -> None:
    host.device("sda", "8:0")
    host.partition("sda/sda1", "8:1")
    host.mount("8:0", "/mnt")
    assert host.uses("8:1") == ["its whole disk sda is mounted on /mnt, read-write: unmount /mnt [writes]"]


def test_swap_is_named(host: Host, loop_device: Path) -> None:
    (host.root / "dev").symlink_to("/dev")
    (host.root / "proc/swaps").write_text(f"Filename Type Size Used Priority\n{loop_device} partition 16380 0 -2\n")
    number = f"{os.major(loop_device.stat().st_rdev)}:{os.minor(loop_device.stat().st_rdev)}"
    assert host.uses(number) == [f"swap: swapoff {loop_device} [writes]"]


def test_devices_over_devices_end_somewhere(host: Host) -> None:
    one, other = host.device("dm-0", "253:0"), host.device("dm-1", "253:1")
    host.held(one, other)
    host.held(other, one)
    assert len(host.uses("253:0")) == 1
