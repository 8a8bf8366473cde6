"""Who is measured by scripts/bench: each runs one case for a while and says how many requests that were."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
NULL_SIZE = "1G"


@dataclass(frozen=True)
class Case:
    """A load: rw as fio calls it, bytes of a request, requests in flight; io is cached, direct or null."""

    rw: str
    bs: int
    depth: int
    io: str = "cached"

    @property
    def writing(self) -> bool:
        return self.rw.endswith("write")

    def __str__(self) -> str:
        size = f"{self.bs >> 20} MiB" if self.bs >= 1 << 20 else f"{self.bs >> 10} KiB"
        return f"{self.rw} {size}, {self.depth} deep, {self.io}"


@dataclass(frozen=True)
class Result:
    """Requests a second; microseconds of CPU a request where the data is served; latencies where they are known."""

    iops: float
    cpu: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    return done.stdout


class Contestant(ABC):
    """name: how it is called in the table."""

    name = ""

    def able(self, case: Case) -> bool:
        """Whether it can do that case at all."""
        return True

    @abstractmethod
    def run(self, case: Case, image: Path, seconds: float) -> Result:
        """One turn."""


class Fio(Contestant):
    """fio itself on the file, with no server between: the yardstick.  Tuned as its options can."""

    name = "fio"

    def able(self, case: Case) -> bool:
        return case.io != "null"

    def run(self, case: Case, image: Path, seconds: float) -> Result:
        # Buffered writes go to io_uring's threads: there preadv2/pwritev2 are its fastest engine.
        sync = case.writing and case.io == "cached"
        engine = ["--ioengine=pvsync2"] if sync else [
            "--ioengine=io_uring", f"--iodepth={case.depth}", f"--iodepth_batch_submit={case.depth}",
            "--iodepth_batch_complete_min=1", f"--iodepth_batch_complete_max={case.depth}", "--fixedbufs",
            "--registerfiles"]
        command = ["fio", "--name=yardstick", f"--filename={image}", "--invalidate=0", "--norandommap",
                   "--randrepeat=0", f"--rw={case.rw}", f"--bs={case.bs}", f"--direct={int(case.io == 'direct')}",
                   "--gtod_reduce=1", "--time_based", f"--runtime={seconds}", "--output-format=json", *engine]
        if (os.cpu_count() or 1) > 1:
            command.append("--cpus_allowed=1")
        job = json.loads(run(command))["jobs"][0]
        way = job["write" if case.writing else "read"]
        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1000
        return Result(way["iops"], cpu / max(1, way["total_ios"]))


class Xenvbd(Contestant):
    """The real backend and worker; the frontend is a process of its own."""

    def __init__(self, *, persistent: bool = False, poll: bool = False, top: Path = TOP) -> None:
        self.persistent, self.poll, self.top = persistent, poll, top
        self.name = "xenvbd " + ("persistent" if persistent else "copy") + (", poll" if poll else "")

    def able(self, case: Case) -> bool:
        return not (self.persistent and case.io == "direct")

    def run(self, case: Case, image: Path, seconds: float) -> Result:
        target = f"null:{NULL_SIZE}" if case.io == "null" else str(image)
        command = ["env", f"PYTHONPATH={self.top}", sys.executable, "-m", "xenvbd.cli", "--json", "bench", target,
                   "--rw", case.rw, "--bs", str(case.bs), "--iodepth", str(case.depth), "--seconds", f"{seconds}s",
                   "--direct" if case.io == "direct" else "--no-direct"]
        command += ["--write-target"] * (case.writing and case.io != "null") + ["--persistent"] * self.persistent
        found = json.loads(run(command + ["--poll"] * self.poll))
        return Result(found["iops"], found["cpu-us"]["backend"], found["p50-us"], found["p99-us"], found["p99.9-us"])


class Nbd(Contestant):
    """An NBD server on a UNIX socket, under the client beside this file."""

    def __init__(self, client: Path, socket: Path) -> None:
        self.client, self.socket = client, socket

    @abstractmethod
    def command(self, case: Case, image: Path) -> list[str]:
        """The server's."""

    def run(self, case: Case, image: Path, seconds: float) -> Result:
        self.socket.unlink(missing_ok=True)
        with subprocess.Popen(self.command(case, image), stderr=subprocess.DEVNULL) as server:
            try:
                await_socket(self.socket)
                words = run([str(self.client), str(self.socket), "write" if case.writing else "read",
                             "random" if case.rw.startswith("rand") else "sequential", str(case.bs), str(case.depth),
                             str(seconds)]).split()
                cpu = time.clock_gettime(~server.pid << 3 | 2)          # clock_getcpuclockid(3)
            finally:
                server.terminate()
        return Result(int(words[0]) / float(words[1]), cpu * 1e6 / max(1, int(words[0])))


class QemuNbd(Nbd):
    name = "qemu-nbd"

    def able(self, case: Case) -> bool:
        return case.io != "null"

    def command(self, case: Case, image: Path) -> list[str]:
        cache = "none" if case.io == "direct" else "writeback"
        return ["qemu-nbd", "-f", "raw", "-k", str(self.socket), "-t", f"--cache={cache}", "--aio=io_uring", str(image)]


class Nbdkit(Nbd):
    name = "nbdkit"

    def able(self, case: Case) -> bool:
        return case.io != "direct"              # its file plugin has no such mode

    def command(self, case: Case, image: Path) -> list[str]:
        plugin = ["null", NULL_SIZE] if case.io == "null" else ["file", str(image)]
        return ["nbdkit", "-f", "-U", str(self.socket), *plugin]


def await_socket(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{path}: the server has not made its socket")
        time.sleep(0.01)
    time.sleep(0.05)                            # bound, and about to listen
