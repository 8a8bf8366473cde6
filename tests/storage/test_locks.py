"""Images on file systems that keep locks themselves, or have none: a fence file stands in for them."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.host import wait
from xenvbd.disk import locks
from xenvbd.errors import Error

SERVER = Path(__file__).parents[1] / "disk/fusefile.py"
DEVID = 51712
WRITES = ("--bs", 4096, "--iodepth", 8, "--rw", "randwrite")


@pytest.fixture
def fuse(host):
    """fuse(*options): an image of 4 MiB of such a file system (fusefile.py), unmounted before the host ends."""
    servers, close = [], host.close

    def mount(*options):
        path = host.path / f"fuse{len(servers)}.img"
        path.touch()
        command = [sys.executable, SERVER, path, 4 << 20, *options]
        server = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        servers.append((path, server))
        if server.stdout.readline() != b"ready\n":
            pytest.skip(f"FUSE is not possible here: {server.stderr.read().decode().splitlines()[-1:]}")
        return str(path)

    def end():
        for guest in host.guests:
            if guest.process.poll() is None:
                guest.kill()
        for path, server in servers:
            subprocess.run(["umount", "--lazy", str(path)], check=False)
            server.terminate()
            server.wait()
        close()

    host.close = end
    return mount


def serves(host, image, **params):
    """A guest that writes to it, and checks what it reads."""
    host.attach(1, image, wait=False, **params)
    return host.guest(1, DEVID, *WRITES, "--seconds", "2s").connected()


def is_free(image):
    with open(image, "r+b") as file:
        return locks.is_free(file.fileno(), 0, 0)


def test_a_detach_leaves_no_lock_with_a_file_system_that_keeps_them(host, fuse):
    image = fuse("--locks")
    guest = serves(host, image)
    assert not is_free(image)
    assert guest.finish()["errors"] == 0
    host.client.call("detach", disk="1:xvda", force=True)
    assert is_free(image)
    host.attach(2, image, wait=False)


def killed(host):
    pid = host.worker(1)
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize(("options", "params"), [(("--locks",), {}), (("--no-locks",), {"lock": False})])
def test_a_killed_worker_is_followed_by_another_there(host, fuse, options, params):
    guest = serves(host, fuse(*options), **params)
    before = killed(host)
    result = guest.finish()
    assert result["errors"] == result["mismatches"] == 0 and host.worker(1) != before


def test_a_file_system_without_locks_is_refused_until_told_otherwise(host, fuse):
    image = fuse("--no-locks")
    with pytest.raises(Error, match="cannot be locked: No locks available; --lock=off gives the lock up"):
        host.attach(1, image, wait=False)
    shown = host.attach(1, image, wait=False, lock=False)
    assert "is not locked (lock = off)" in shown["warnings"][0] and "is not locked (lock = off)" in host.text()


def test_without_locks_the_last_write_of_a_killed_worker_is_waited_for_all_the_same(host, fuse):
    held = host.path / "held"
    image = fuse("--no-locks", "--held", held)
    guest = serves(host, image, lock=False, engine="threads")       # one that the manager sees the end of at once
    held.touch()
    try:
        wait(Path(f"{held}.write").exists, "a write hangs")
        killed(host)
        wait(lambda: ".fence" in host.client.call("show", disk="1:xvda")["note"], "the next worker waits")
    finally:
        held.unlink()
    result = guest.finish()
    assert result["errors"] == result["mismatches"] == 0
