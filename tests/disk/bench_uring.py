"""How fast the uring engine is by itself, beside fio on the same file: the median of paired ratios.

Usage: python tests/disk/bench_uring.py IMAGE [ROUNDS]     (an image of 1 GiB of random data is made if missing)
Rounds are interleaved, 1 s each, both pinned to CPU 1; the image stays locked in the page cache meanwhile.
"""
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
from pathlib import Path

from xenvbd import disk
from xenvbd.disk.probe import Session
from xenvbd.target import parse

SIZE = 1 << 30
CPU = os.cpu_count() - 1
# --thread: a forked job calls setsid(), and then competes with the rest of the machine as another session.
FIO = ("fio --name=y --thread --filename={} --invalidate=0 --norandommap --randrepeat=0 --ioengine=io_uring "
       "--iodepth=32 --rw=randread --bs=4k --cpus_allowed={} --iodepth_batch_submit=32 --iodepth_batch_complete_min=1 "
       "--iodepth_batch_complete_max=32 --fixedbufs --registerfiles --gtod_reduce=1 --time_based --runtime=1 "
       "--output-format=json")


def fio(image: str) -> tuple[float, float]:
    """fio's IOPS in one second, and its CPU time for each, in microseconds."""
    out = subprocess.check_output(FIO.format(image, CPU).split(), text=True)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    busy = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["read"]["runtime"] * 1000
    return job["read"]["iops"], busy / job["read"]["total_ios"]


def ours(image: str, engine: str) -> tuple[float, float]:
    """The same of the engine."""
    opened = disk.open(parse(image), read_only=True, direct=False, engine=engine)
    with Session(opened, depth=32, slot_bytes=4096) as session:
        result = session.load(1.0, depth=32, chunk=16)
    opened.close()
    assert not result["errors"]
    return result["ops"] / result["seconds"], result["cpu_seconds"] / result["ops"] * 1e6


def steal() -> float:
    """Seconds that the host has taken from us so far."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def lock_in_memory(image: str) -> None:
    """Keep the image in the page cache as long as this process lives."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    with open(image, "rb") as file:
        size = ctypes.c_size_t(os.fstat(file.fileno()).st_size)
        pages = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0))
    if libc.mlock(ctypes.c_void_p(pages), size):
        print("the image could not be locked in memory: expect noise")


def main(image: str, rounds: int = 9) -> None:
    if not os.path.exists(image):
        with open(image, "wb") as file:
            for _ in range(256):
                file.write(os.urandom(SIZE // 256))
            os.fsync(file.fileno())
    lock_in_memory(image)
    Path("/proc/self/autogroup").write_text("-20")      # nice(1) does nothing between login sessions
    os.sched_setaffinity(0, {CPU})
    compare(image, rounds)


def compare(image: str, rounds: int) -> None:
    ratios, cpu_ratios = [], []
    for turn in range(rounds):
        before = steal()
        theirs, mine = fio(image), ours(image, "uring")
        ratios.append(mine[0] / theirs[0])
        cpu_ratios.append(mine[1] / theirs[1])
        print(f"round {turn + 1}: IOPS fio {theirs[0]:7.0f} uring {mine[0]:7.0f} ratio {ratios[-1]:.2f}   "
              f"CPU us/IO {theirs[1]:.2f} {mine[1]:.2f} ratio {cpu_ratios[-1]:.2f}   "
              f"steal {steal() - before:.2f} s", flush=True)
    for name, values in (("IOPS", ratios), ("CPU/IO", cpu_ratios)):
        print(f"median ratio of {name}: {statistics.median(values):.2f} [{min(values):.2f}-{max(values):.2f}]")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
