"""How fast a Store is with Debian's xenstored and with the simulated one: python -m tests.store.bench"""
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.preload.xenstored import Xenstored, build_shim
from xenvbd.store import Store, Transaction

ROUNDS = 3


def per_second(verb: Callable[[], object], count: int) -> float:
    """The best rate of a few rounds."""
    best = 0.0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(count):
            verb()
        best = max(best, count / (time.perf_counter() - began))
    return best


def latencies(store: Store, other: Store, count: int) -> list[float]:
    """Seconds from before one client's write to the other's callback, sorted."""
    fired: list[float] = []
    found: list[float] = []
    store.watch("/bench/watched", lambda path: fired.append(time.perf_counter()))
    store.read("/")
    store.dispatch()
    poll = select.poll()
    poll.register(store.fileno(), select.POLLIN)
    for _ in range(count):
        fired.clear()
        began = time.perf_counter()
        other.write("/bench/watched", b"")
        while not fired:
            poll.poll(1000)
            store.dispatch()
        found.append(fired[-1] - began)
    return sorted(found)


def report(name: str, path: str) -> None:
    """Measure the store at path and print one line."""
    def twelve(tx: Transaction) -> None:
        for i in range(12):
            tx.write(f"/bench/{i}", b"v")

    with Store(path) as store, Store(path) as other:
        store.write("/bench/x", b"value")
        reads = per_second(lambda: store.read("/bench/x"), 5000)
        writes = per_second(lambda: store.write("/bench/x", b"v"), 5000)
        commits = per_second(lambda: store.transaction(twelve), 300)
        waits = latencies(store, other, 2000)
    print(f"{name:10} {reads:8,.0f} reads/s {writes:8,.0f} writes/s; transaction of 12 writes {1e6 / commits:4.0f} us;"
          f" write to watch p50 {1e6 * waits[1000]:3.0f} us, p99 {1e6 * waits[1980]:3.0f} us")


def main() -> None:
    """Measure both."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        real, simulated = Path(directory) / "real", Path(directory) / "simulated"
        real.mkdir()
        simulated.mkdir()
        xenstored = Xenstored(real, build_shim(Path(directory)))
        report("xenstored", xenstored.path())
        xenstored.stop()
        command = [sys.executable, "-m", "xenvbd.store_sim", str(simulated)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            report("simulated", str(simulated / "store.0"))
            process.terminate()


if __name__ == "__main__":
    main()
