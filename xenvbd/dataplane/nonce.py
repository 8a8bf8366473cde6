"""What tells one connection from all others.  A locked down worker cannot ask for random bytes, and need not: a
nonce need not be hard to guess, so one random number a process is enough to count on from."""
from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

BYTES = 16

_numbers: Iterator[int]


def _begin() -> None:
    global _numbers
    _numbers = itertools.count(int.from_bytes(os.urandom(BYTES), "big"))


def new_nonce() -> bytes:
    """16 bytes.  The first four are not all zeros: a frontend that clears no more of its ring's padding than these has
    cleared the nonce."""
    first, *others = (next(_numbers) % (1 << 8 * BYTES)).to_bytes(BYTES, "big")
    return bytes((first | 1, *others))


_begin()
os.register_at_fork(after_in_child=_begin)
