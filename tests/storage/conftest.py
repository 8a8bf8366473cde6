"""File systems of a test's own, that can be full, broken or frozen; needs root and, but for tmpfs, loop devices."""
import contextlib
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.host import SimHost

EXT4_BYTES = 32 << 20


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


class Mounts:
    """Made below a host's directory, which is where its images may be."""

    def __init__(self, host, scratch):
        self.host, self.scratch, self.places, self.thawing = host, scratch, [], []

    def tmpfs(self, size):
        return self._mount("tmpfs", "-t", "tmpfs", "-o", f"size={size}", "none")

    def ext4(self):
        image = self.scratch / f"{len(self.places)}.ext4"
        with image.open("wb") as file:
            file.truncate(EXT4_BYTES)
        run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(image))
        return self._mount("ext4", "-o", "loop,errors=remount-ro", str(image))

    def freeze(self, place):
        run("fsfreeze", "-f", str(place))
        self.thawing.append(place)

    def thaw(self, place):
        run("fsfreeze", "-u", str(place))
        self.thawing.remove(place)

    def close(self):
        for place in list(self.thawing):
            self.thaw(place)

    def unmount(self):
        for place in self.places:
            subprocess.run(["umount", "-l", str(place)], check=False)

    def _mount(self, name, *arguments):
        place = self.host.path / f"{name}{len(self.places)}"
        place.mkdir()
        try:
            run("mount", *arguments, str(place))
        except (OSError, subprocess.CalledProcessError) as exc:
            pytest.skip(f"no {name} can be mounted here: {getattr(exc, 'stderr', exc)!r}")
        self.places.append(place)
        return place


@pytest.fixture
def host(monkeypatch):
    """A simulated host that calls what hangs for half a second an alarm."""
    monkeypatch.setenv("STALL_ALARM", "0.5")
    made = SimHost()
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def mounts():
    """mounts(host): its Mounts.  What is frozen goes on before the host ends, then it is unmounted."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        yield lambda host: stack.enter_context(_made(host, scratch))


@contextlib.contextmanager
def _made(host, scratch):
    mounts, close = Mounts(host, scratch), host.close

    def end():
        mounts.close()
        for guest in host.guests:
            if guest.process.poll() is None:
                guest.kill()
        mounts.unmount()
        close()

    host.close = end
    yield mounts
