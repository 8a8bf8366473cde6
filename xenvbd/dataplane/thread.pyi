# What Python sees of thread.pyx.
from collections.abc import Callable

from xenvbd.dataplane.queue import Queue

def run(q: Queue, report: Callable[[int], object]) -> None: ...
