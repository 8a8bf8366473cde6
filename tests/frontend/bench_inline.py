"""What the frontend itself costs: the load generator against a responder in its own thread that moves no data.

    python -m tests.frontend.bench_inline [SECONDS]
"""
import sys
from tempfile import TemporaryDirectory

from xenvbd.frontend.load import Load
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.responder import Responder
from xenvbd.frontend.shadow import Shadow
from xenvbd.hv import sim

LOADS = ({"rw": "randread", "verify": False}, {"rw": "randwrite", "verify": False}, {"rw": "randwrite"},
         {"rw": "randread", "verify": False, "iodepth": 1},
         {"rw": "randread", "verify": False, "bs": 131072, "iodepth": 8},
         {"rw": "randwrite", "bs": 131072, "iodepth": 8})


def measure(machine: sim.Machine, seconds: float, options: dict) -> str:
    """One load: operations a second by the clock, and CPU time an operation, which does not depend on neighbours."""
    queue = FrontQueue(machine.join(1), 0)
    queue.max_segments = 256
    queue.attach(Responder(queue))
    load = Load(queue, Shadow(1 << 21), seconds=seconds, **options)
    while load.step(0.1):
        pass
    ops = sum(op.ops for op in load.snapshot.ops.values())
    queue.close()
    return f"{ops / load.seconds / 1e6:6.2f} M/s  {load.cpu_seconds / ops * 1e9:6.0f} ns CPU an operation  {options}"


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with TemporaryDirectory(dir="/dev/shm") as directory, sim.Machine.create(f"{directory}/machine") as machine:
        machine.add_domain(1)
        for options in LOADS:
            print(measure(machine, seconds, options), flush=True)


if __name__ == "__main__":
    main()
