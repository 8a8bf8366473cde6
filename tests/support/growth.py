"""What something that is done again and again leaves behind, where allocator, interpreter and kernel keep some for
themselves: what counts is not how much there is at the end, but whether it grows over each of some equal spans."""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

SPANS = 6           # what only comes and goes does not grow in all of them


def mappings(pid: int | str = "self") -> dict[str, int]:
    """How many a process has."""
    return {"mappings": Path(f"/proc/{pid}/maps").read_text().count("\n")}


def resident(pid: int | str = "self", step: int = 1 << 16) -> dict[str, int]:
    """Its memory, in steps of so many bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {"resident": pages * os.sysconf("SC_PAGESIZE") // step}


def growing(span: Callable[[], object], measure: Callable[[], dict[str, int]],
            seconds: float = 3) -> dict[str, list[int]]:
    """Do span() two to SPANS times; what there is more of after each of them than there was before, by its name in
    measure(), with its values.  What ends by itself within so many seconds does not count.

        assert growing(lambda: [cycle() for _ in range(500)], mappings) == {}
    """
    seen = [measure()]
    suspects = set(seen[0])
    while len(seen) < 3 or (suspects and len(seen) <= SPANS):
        span()
        end = time.monotonic() + seconds
        while any(measure()[name] > seen[-1][name] for name in suspects) and time.monotonic() < end:
            time.sleep(0.01)
        seen.append(measure())
        suspects = {name for name in suspects if seen[-1][name] > seen[-2][name]}
    return {name: [each[name] for each in seen] for name in sorted(suspects)}
