"""A simulated machine with domains 0 and 1, both ends of it, and processes that join it and may be killed."""
import contextlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenvbd.hv import evtchn, grant, sim

TOP = Path(__file__).parents[2]
PRELUDE = """
import os, select, sys, time
from xenvbd import hv
from xenvbd.hv import evtchn, grant, sim
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().split()
"""


class Peer:
    """A Python process that joins the machine as a domain; it says and hears lines."""

    def __init__(self, directory: str, domid: int, code: str) -> None:
        script = PRELUDE + f"me = hv.open('sim:{directory}', {domid})\n" + code
        self.process = subprocess.Popen([sys.executable, "-c", script], cwd=TOP, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def numbers(self) -> list[int]:
        return [int(word) for word in self.hear()]

    def say(self, *words: object) -> None:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def machine() -> Iterator[sim.Machine]:
    directory = tempfile.mkdtemp(prefix="xenvbd-hv-", dir="/dev/shm")
    with sim.Machine.create(directory) as machine:
        machine.add_domain(1)
        yield machine
    shutil.rmtree(directory)


@pytest.fixture
def spawn(machine: sim.Machine) -> Iterator[Callable[[int, str], Peer]]:
    peers: list[Peer] = []

    def start(domid: int, code: str) -> Peer:
        peers.append(Peer(machine.dir, domid, code))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


@pytest.fixture
def back(machine: sim.Machine) -> Iterator[evtchn.EventChannels]:
    """The backend's event channels, in domain 0."""
    with evtchn.EventChannels(machine.join(0)) as channels:
        yield channels


@pytest.fixture
def front(machine: sim.Machine) -> Iterator[evtchn.EventChannels]:
    """The frontend's event channels, in domain 1."""
    with evtchn.EventChannels(machine.join(1)) as channels:
        yield channels


@pytest.fixture
def table(machine: sim.Machine) -> Iterator[grant.GrantTable]:
    """The backend's grant table, in domain 0."""
    with grant.GrantTable(machine.join(0)) as table:
        yield table


@pytest.fixture
def sharer(machine: sim.Machine) -> Iterator[grant.GrantSharer]:
    """What the frontend in domain 1 shares its pages with."""
    with grant.GrantSharer(machine.join(1)) as sharer:
        yield sharer


@pytest.fixture
def readable() -> Callable[..., bool]:
    """readable(channels, timeout=0): whether their descriptor is."""
    def readable(channels: evtchn.EventChannels, timeout: float = 0) -> bool:
        return bool(select.select([channels], [], [], timeout)[0])
    return readable


@pytest.fixture
def wait() -> Callable[[evtchn.EventChannels], int]:
    """wait(channels): the next port that becomes pending, as a sleeping consumer gets it."""
    def wait(channels: evtchn.EventChannels) -> int:
        deadline = time.monotonic() + 10
        while (port := channels.pending()) is None:
            assert time.monotonic() < deadline, "no event came"
            select.select([channels], [], [], 1)
        return port
    return wait
