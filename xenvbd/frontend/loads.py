"""A load on each queue of a disk at once, one thread a queue, driven like a single Load."""
from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from xenvbd.frontend.load import Load
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.shadow import Shadow
from xenvbd.stats import Snapshot


class Loads:
    """Loads(queues, shadow, first=, sectors=, bs=, ...): the options of a Load; iodepth is each queue's.

    The region is divided, so that it is certain what each read may return; so is count.  ValueError: the region
    has fewer blocks than there are queues."""

    def __init__(self, queues: Sequence[FrontQueue], shadow: Shadow, *, first: int = 0, sectors: int | None = None,
                 bs: int = 4096, count: int | None = None, seed: int = 1, **options: Any) -> None:
        sectors = shadow.sectors - first if sectors is None else sectors
        blocks, number = sectors // (bs // 512), len(queues)
        if blocks < number:
            raise ValueError(f"{sectors} sectors are too few for {number} queues of {bs} bytes a request")
        share = blocks // number * (bs // 512)
        sizes = [share] * (number - 1) + [sectors - share * (number - 1)]
        counts = [None if count is None else (count + i) // number for i in range(number)]
        self._each = [Load(queue, shadow, first=first + i * share, sectors=sizes[i], bs=bs, count=counts[i],
                           seed=seed + i, **options) for i, queue in enumerate(queues)]
        self._threads = ThreadPoolExecutor(number, "load")
        self.rw, self.depth = self._each[0].rw, self._each[0].depth

    @property
    def stop(self) -> bool:
        """No new requests; what is in flight is waited for."""
        return self._each[0].stop

    @stop.setter
    def stop(self, stop: bool) -> None:
        for load in self._each:
            load.stop = stop

    def step(self, seconds: float) -> bool:
        """Run all for so long; False once nothing is left to do.  Raises what a Load raises."""
        going = list(self._threads.map(lambda load: load.step(seconds), self._each))
        if not any(going):
            self._threads.shutdown()
        return any(going)

    @property
    def snapshot(self) -> Snapshot:
        """The counters of all queues, added up."""
        return sum((load.snapshot for load in self._each), Snapshot.zero())

    @property
    def verified(self) -> int:
        return sum(load.verified for load in self._each)

    @property
    def seconds(self) -> float:
        """Of the queue that took longest."""
        return max(load.seconds for load in self._each)

    @property
    def cpu_seconds(self) -> float:
        return sum(load.cpu_seconds for load in self._each)

    @property
    def operations(self) -> int | None:
        each = [load.operations for load in self._each]
        return None if None in each else sum(count or 0 for count in each)
