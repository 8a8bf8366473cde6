"""Who is measured by scripts/bench: each runs one case for a while and says how many requests that were."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
NULL_SIZE = "1G"


@dataclass(frozen=True)
class Case:
    """A load: rw as fio calls it, bytes of a request, requests in flight; io is cached, direct or null; so many rings
    of a disk, each with that many in flight; so many disks at once, each with a daemon and guest of its own."""

    rw: str
    bs: int
    depth: int
    io: str = "cached"
    queues: int = 1
    disks: int = 1

    @property
    def writing(self) -> bool:
        return self.rw.endswith("write")

    def __str__(self) -> str:
        size = f"{self.bs >> 20} MiB" if self.bs >= 1 << 20 else f"{self.bs >> 10} KiB"
        return f"{self.rw} {size}, {self.depth} deep, {self.io}" + "".join(
            f", {count} {what}" for count, what in ((self.queues, "rings"), (self.disks, "disks")) if count > 1)


@dataclass(frozen=True)
class Result:
    """Requests a second; microseconds of CPU a request where the data is served; latencies where they are known; how
    often a request the guest was notified, the server was, it slept, and it submitted or waited for I/O."""

    iops: float
    cpu: float = 0.0
    out: float = 0.0
    into: float = 0.0
    wakeups: float = 0.0
    submits: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0


def run(command: list[str], top: Path = TOP) -> str:
    """What it prints; it imports from the tree that it runs in."""
    done = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False, timeout=120)
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
        """One turn of one disk."""

    def run_all(self, case: Case, image: Path, seconds: float) -> Result:
        """One turn: requests a second of all disks, all else of the first."""
        with ThreadPoolExecutor(case.disks) as pool:
            turns = [pool.submit(self.run, case, image, seconds) for _ in range(case.disks)]
            results = [turn.result() for turn in turns]
        return replace(results[0], iops=sum(one.iops for one in results))


class Fio(Contestant):
    """fio itself on the file, with no server between: the yardstick.  Tuned as its options can."""

    name = "fio"

    def able(self, case: Case) -> bool:
        return case.io != "null"

    def run(self, case: Case, image: Path, seconds: float) -> Result:
        # Buffered writes go to io_uring's threads: there plain pread() and pwrite() are its fastest engine.
        sync = case.writing and case.io == "cached"
        several = case.queues * case.disks > 1
        jobs = ["--thread", f"--numjobs={case.queues}", "--group_reporting"] if case.queues > 1 else []
        engine = ["--ioengine=psync"] if sync else [
            "--ioengine=io_uring", f"--iodepth={case.depth}", f"--iodepth_batch_submit={case.depth}",
            "--iodepth_batch_complete_min=1", f"--iodepth_batch_complete_max={case.depth}", "--fixedbufs",
            "--registerfiles"]
        command = ["fio", "--name=yardstick", f"--filename={image}", "--invalidate=0", "--norandommap",
                   "--randrepeat=0", f"--rw={case.rw}", f"--bs={case.bs}", f"--direct={int(case.io == 'direct')}",
                   "--gtod_reduce=1", "--time_based", f"--runtime={seconds}", "--output-format=json", *engine, *jobs]
        if not several and (os.cpu_count() or 1) > 1:
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

    def command(self, case: Case, image: Path, seconds: float) -> list[str]:
        """xenvbd bench with this case."""
        target = f"null:{NULL_SIZE}" if case.io == "null" else str(image.absolute())
        command = [sys.executable, "-m", "xenvbd.cli", "--json", "bench", target,
                   "--rw", case.rw, "--bs", str(case.bs), "--iodepth", str(case.depth), "--seconds", f"{seconds}s",
                   "--queues", str(case.queues), "--direct" if case.io == "direct" else "--no-direct"]
        command += ["--write-target"] * (case.writing and case.io != "null") + ["--persistent"] * self.persistent
        return command + ["--poll", "--poll-us", "50"] * self.poll

    def run(self, case: Case, image: Path, seconds: float) -> Result:
        found = json.loads(run(self.command(case, image, seconds), self.top))
        each = found["per-request"]
        return Result(found["iops"], found["cpu-us"]["backend"], each["events-out"], each["events-in"],
                      each.get("wakeups", 0.0), each["submits"], found["p50-us"], found["p99-us"], found["p99.9-us"])


class OneRing(Xenvbd):
    """Of a case of several rings, one: the guest and the backend have one processor, where several have as many."""

    def __init__(self, *, persistent: bool = False, top: Path = TOP) -> None:
        super().__init__(persistent=persistent, top=top)
        self.name += ", one ring on one processor"

    def able(self, case: Case) -> bool:
        return case.queues > 1 and super().able(case)

    def command(self, case: Case, image: Path, seconds: float) -> list[str]:
        return ["taskset", "--cpu-list", "1", *super().command(replace(case, queues=1), image, seconds)]


class Vhost(Contestant):
    """qemu-storage-daemon's vhost-user-blk, the one other server that shares memory, under the client beside this."""

    def __init__(self, client: Path, socket: Path, *, poll: bool = False) -> None:
        self.client, self.socket, self.poll = client, socket, poll
        self.name = "qemu-storage-daemon" + (", poll" if poll else "")

    def able(self, case: Case) -> bool:
        return case.queues == case.disks == 1

    def command(self, case: Case, image: Path) -> list[str]:
        """The server's."""
        cache = f"cache.direct={'on' if case.io == 'direct' else 'off'}"
        blocks = (f"driver=null-co,node-name=f0,size={1 << 30},read-zeroes=on" if case.io == "null" else
                  f"driver=file,node-name=f0,filename={image},aio=io_uring,{cache}")
        spins = "" if self.poll else ",poll-max-ns=0"          # its default is 32 us before it sleeps
        return ["qemu-storage-daemon", "--object", f"iothread,id=t0{spins}", "--blockdev", blocks, "--export",
                f"type=vhost-user-blk,id=e0,addr.type=unix,addr.path={self.socket},node-name=f0,iothread=t0,writable=on"]

    def run(self, case: Case, image: Path, seconds: float) -> Result:
        size = 1 << 30 if case.io == "null" else image.stat().st_size
        load = [str(self.client), *(["--poll"] if self.poll else []), str(self.socket), *words(case), str(seconds),
                str(size)]
        counts, cpu = serve(self.command(case, image), self.socket, load)
        ops = max(1, counts[0])
        return Result(counts[0] / counts[1], cpu * 1e6 / ops, counts[3] / ops, counts[2] / ops)


class Nbd(Contestant):
    """An NBD server on a UNIX socket, under the client beside this file."""

    def __init__(self, client: Path, socket: Path) -> None:
        self.client, self.socket = client, socket

    @abstractmethod
    def command(self, case: Case, image: Path) -> list[str]:
        """The server's."""

    def able(self, case: Case) -> bool:
        return case.queues == case.disks == 1

    def run(self, case: Case, image: Path, seconds: float) -> Result:
        counts, cpu = serve(self.command(case, image), self.socket,
                            [str(self.client), str(self.socket), *words(case), str(seconds)])
        return Result(counts[0] / counts[1], cpu * 1e6 / max(1, counts[0]))


def words(case: Case) -> list[str]:
    """A case as the clients want it."""
    return ["write" if case.writing else "read", "random" if case.rw.startswith("rand") else "sequential",
            str(case.bs), str(case.depth)]


def serve(command: list[str], socket: Path, load: list[str]) -> tuple[list[float], float]:
    """Start a server, wait for its socket, run a client: the numbers that it prints, and the server's CPU seconds."""
    socket.unlink(missing_ok=True)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            await_socket(socket)
            counts = [float(word) for word in run(load).split()]
            cpu = time.clock_gettime(~server.pid << 3 | 2)          # clock_getcpuclockid(3)
        finally:
            server.terminate()
    return counts, cpu


class QemuNbd(Nbd):
    name = "qemu-nbd"

    def able(self, case: Case) -> bool:
        return super().able(case) and case.io != "null"

    def command(self, case: Case, image: Path) -> list[str]:
        cache = "none" if case.io == "direct" else "writeback"
        return ["qemu-nbd", "-f", "raw", "-k", str(self.socket), "-t", f"--cache={cache}", "--aio=io_uring", str(image)]


class Nbdkit(Nbd):
    name = "nbdkit"

    def able(self, case: Case) -> bool:
        return super().able(case) and case.io != "direct"       # its file plugin has no such mode

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
