# What Python sees of load.pyx.
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.shadow import Shadow
from xenvbd.stats import Snapshot

KINDS: tuple[str, ...]

class Load:
    rw: str
    depth: int
    stop: bool
    snapshot: Snapshot
    verified: int
    seconds: float
    cpu_seconds: float
    operations: int | None
    def __init__(self, queue: FrontQueue, shadow: Shadow, *, rw: str = "randread", bs: int = 4096, iodepth: int = 32,
                 first: int = 0, sectors: int | None = None, count: int | None = None, seconds: float | None = None,
                 seed: int = 1, verify: bool = True, read_percent: int = 50, flush_every: int = 0,
                 discard_every: int = 0, skew: bool = False, batch: int = 0, tolerate: bool = False,
                 timeout: float = 30) -> None: ...
    def step(self, seconds: float) -> bool: ...
