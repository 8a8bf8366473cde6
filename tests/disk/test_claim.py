"""A claim: an image kept open and locked, and the descriptions for I/O that are opened through it."""
import errno
import functools
import os
import subprocess

import pytest

from xenvbd.disk import locks, places
from xenvbd.disk.claim import Claim, Terms
from xenvbd.disk.image import open_image
from xenvbd.errors import ClaimError, TargetError

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(MIB))
    return str(path)


@pytest.fixture
def take():
    """take(path, ...): a claim, closed at the end."""
    made = []

    def claim(path, **terms):
        where = places.find(str(path), ["/"])
        try:
            made.append(Claim.take(str(path), where, Terms(**terms)))
        finally:
            os.close(where)
        return made[-1]

    yield claim
    for each in made:
        each.close()


def opened(claim, *, writer="1/51712", alone=True, read_only=False):
    return claim.image(read_only=read_only, direct=False, logical_block_size=512, writer=writer, alone=alone)


def qemu_io(path, *commands):
    """The exit status of qemu-io, and what it said."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "raw", *words, path], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_an_image_is_had_by_one(take, path):
    take(path)
    with pytest.raises(ClaimError, match="locked by process") as refused:
        take(path)
    assert refused.value.errno == errno.EBUSY


def test_readers_have_it_together_and_keep_a_writer_out(take, path):
    take(path, read_only=True)
    take(path, read_only=True)
    with pytest.raises(ClaimError):
        take(path)


def test_a_description_for_io_is_of_the_image_that_was_claimed(take, path, tmp_path):
    claim = take(path)
    (tmp_path / "b.img").write_bytes(b"another")
    os.replace(tmp_path / "b.img", path)
    image = opened(claim)
    assert image.size == MIB
    image.close()


def test_every_description_is_one_of_its_own(take, path):
    """One description for two workers would void the fence."""
    claim = take(path)
    image = opened(claim)
    with pytest.raises(ClaimError):
        opened(claim)
    locks.let_go(image.fd)
    opened(claim).close()


def test_those_that_are_beside_one_another_have_a_fence_each(take, path):
    claim = take(path)
    first, second = opened(claim), opened(claim, writer="2/51712", alone=False)
    with pytest.raises(ClaimError):
        opened(claim, writer="2/51712", alone=False)
    first.close()
    second.close()


def test_a_claim_keeps_out_who_opens_the_image_without_one(take, path):
    take(path)
    for share in False, True:
        with pytest.raises(ClaimError, match=f"locked by process {os.getpid()} "):
            open_image(path, read_only=False, share=share)


def test_without_a_lock_neither_the_claim_nor_its_descriptions_are_locked(take, path):
    first, second = take(path, lock=False), take(path, lock=False)
    assert not (first.locked or second.locked)
    with os.fdopen(opened(first).fd), os.fdopen(opened(second).fd) as file:
        assert locks.is_free(file.fileno(), 0, 0)


def test_an_image_whose_file_system_has_no_locks_is_claimed_without(fuse_file, take):
    image = fuse_file("--no-locks")
    with pytest.raises(OSError, match="cannot be locked: No locks available; --lock=off"):
        take(image)
    os.close(opened(take(image, lock=False)).fd)


def test_what_must_be_another_image_is_refused(take, path, tmp_path):
    (tmp_path / "b.img").write_bytes(bytes(512))
    expected = take(tmp_path / "b.img").identity
    with pytest.raises(TargetError, match="not the image that was opened") as refused:
        take(path, expected=expected)
    assert refused.value.errno == errno.ESTALE


# Others on this host

def test_a_mounted_device_is_refused_and_may_be_read_if_it_is_mounted_to_be_read(take, loop_device, tmp_path):
    subprocess.run(["mkfs.ext4", "-q", str(loop_device)], check=True)
    (tmp_path / "m").mkdir()
    cases = (("rw", False, True), ("rw", True, True), ("ro", False, True), ("ro", True, False))
    for option, read_only, refused in cases:
        mounted = subprocess.run(["mount", "-o", option, str(loop_device), str(tmp_path / "m")], check=False)
        if mounted.returncode:
            pytest.skip("nothing can be mounted here")
        try:
            if refused:
                with pytest.raises(ClaimError, match="mounted on"):
                    take(loop_device, read_only=read_only)
            else:
                take(loop_device, read_only=read_only)
        finally:
            subprocess.run(["umount", str(tmp_path / "m")], check=True)


def test_a_claimed_device_cannot_be_had_by_another(take, loop_device):
    take(loop_device)
    with pytest.raises(OSError):
        os.open(loop_device, os.O_RDWR | os.O_EXCL)


def test_a_device_that_an_earlier_managers_worker_has_for_itself_is_claimed_beside_it(take, loop_device):
    """As 0.1 had it."""
    worker = os.open(loop_device, os.O_RDWR | os.O_EXCL)
    with pytest.raises(ClaimError):
        take(loop_device)
    take(loop_device, seize=True)
    os.close(worker)


def test_what_came_over_a_device_while_no_manager_lived_is_not_joined(take, loop_device, tmp_path):
    run = functools.partial(subprocess.run, check=True)
    run(["mkfs.ext4", "-q", str(loop_device)])
    (tmp_path / "m").mkdir()
    if run(["mount", str(loop_device), str(tmp_path / "m")], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(ClaimError, match="mounted on"):
            take(loop_device, seize=True)
    finally:
        run(["umount", str(tmp_path / "m")])
    take(loop_device, seize=True)


def test_a_file_under_a_loop_device_is_refused_by_name(take, loop_device, tmp_path):
    with pytest.raises(ClaimError, match=f"under {loop_device}"):
        take(tmp_path / "backing")
    take(tmp_path / "backing", share=True)           # as xl's w!


def test_an_image_that_a_disk_had_already_is_taken_again_whatever_came_over_it(take, path, run):
    identity = take(path).identity
    device = run("losetup", "--find", "--show", path)
    try:
        take(path, expected=identity, lock=False)
    finally:
        run("losetup", "--detach", device)


# QEMU

def test_qemus_tools_are_kept_out_while_it_is_guarded(take, path):
    claim = take(path, guard=True)
    status, said = qemu_io(path, "write 0 512")
    assert status and "lock" in said
    claim.unguard()
    assert qemu_io(path, "write 0 512")[0] == 0


def test_an_image_that_qemu_nbd_has_is_refused_with_its_name(take, path, tmp_path):
    server = subprocess.Popen(["qemu-nbd", "-f", "raw", "-k", str(tmp_path / "s"), "-t", path])
    try:
        while not (tmp_path / "s").exists():
            assert server.poll() is None
        with pytest.raises(ClaimError, match=r"QEMU's image lock: locked by process .*qemu-nbd"):
            take(path, guard=True)
    finally:
        server.kill()
        server.wait()
    take(path, guard=True)


def test_qemu_may_read_beside_a_reader(take, path):
    take(path, read_only=True, guard=True)
    assert qemu_io(path, "read 0 512")[0]           # it opens for writing
    assert subprocess.run(["qemu-img", "info", path], check=False, capture_output=True).returncode == 0


def test_what_comes_too_late_does_nothing_to_who_has_the_number_of_a_closed_claim(take, path, tmp_path):
    (tmp_path / "b.img").write_bytes(bytes(MIB))
    claim = take(path, guard=True)
    number = claim.fd
    claim.close()
    other = take(tmp_path / "b.img", guard=True)
    assert other.fd == number
    for late in claim.unguard, claim.guard, lambda: opened(claim):
        with pytest.raises(ClaimError, match="detached meanwhile"):
            late()
    assert qemu_io(str(tmp_path / "b.img"), "write 0 512")[0]


# Another host

def test_the_lock_of_a_host_that_is_about_to_let_go_may_come_later(take, path, monkeypatch):
    claimed = locks.claim

    def elsewhere(*args, **options):
        raise ClaimError(errno.EREMOTE, "locked by another host")

    monkeypatch.setattr(locks, "claim", elsewhere)
    with pytest.raises(ClaimError, match="another host"):
        take(path)
    claim = take(path, patient=True)
    with pytest.raises(ClaimError, match="has it still") as waits:
        opened(claim)
    assert waits.value.errno == errno.EINPROGRESS
    monkeypatch.setattr(locks, "claim", claimed)
    opened(claim).close()


# A worker of ours

def test_a_refusal_names_the_disk_of_the_worker_that_is_in_the_way(take, path):
    with open(path, "r+b") as worker:
        locks.lock_image(worker.fileno(), path, exclusive=True, fence="7/51712")
        claim = take(path, disks_of=lambda pid, status: ["guest1:xvdd"])
        with pytest.raises(ClaimError, match=r"locked by guest1:xvdd \(process \d+, .*detach it there first"):
            opened(claim)
