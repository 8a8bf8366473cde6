"""What a disk may hold after a power cut: of every moment of a recorded run, by the rules of a disk with a cache.

A write that had ended before a flush began, and that flush has ended: it is there.  Any other that has begun may be
there, or not, whatever became of those before and after it.  Blocks do not depend on each other, so to look at what
each of them may hold at a moment is to look at every reordering of what was not flushed."""
from __future__ import annotations

import struct
from typing import NamedTuple

from tests.crash.workload import BLOCK

WRITE, FLUSH, DISCARD = 1, 2, 3
RECORD = struct.Struct("=4Qq")


class Done(NamedTuple):
    """An operation below the engine; content: of each block that it writes, by number."""

    kind: int
    begin: int
    end: int
    content: dict[int, bytes]


class Promise(NamedTuple):
    """The guest was answered a flush at this time: these blocks must hold one of these contents from here on."""

    time: int
    blocks: dict[int, set[bytes]]


def recorded(path: str) -> list[Done]:
    """The operations of a record, by the time of their end."""
    with open(path, "rb") as file:
        data = file.read()
    found, at = [], 0
    while at < len(data):
        kind, begin, end, offset, result = RECORD.unpack_from(data, at)
        at += RECORD.size
        assert result >= 0, "the storage failed"
        content = {}
        for block in range(offset // BLOCK, (offset + result) // BLOCK):
            content[block] = bytes(BLOCK)
            if kind == WRITE:
                content[block], at = data[at:at + BLOCK], at + BLOCK
        found.append(Done(kind, begin, end, content))
    return sorted(found, key=lambda done: done.end)


def may_hold(writes: list[Done], block: int, moment: int, flushed: int) -> set[bytes]:
    """What a block may hold if the power goes at this moment.  writes: its; flushed: when the last flush began that had
    ended by then."""
    base, base_end, cached = bytes(BLOCK), 0, set()
    for done in writes:
        if done.begin <= moment:
            if done.end > flushed:
                cached.add(done.content[block])
            elif done.end > base_end:
                base, base_end = done.content[block], done.end
    return cached | {base}


def losses(history: list[Done], promises: list[Promise]) -> tuple[int, list[str]]:
    """How many states of a block were looked at, and what was promised and may not be there."""
    moments = sorted({time for done in history for time in (done.begin, done.end)} | {p.time for p in promises})
    writes: dict[int, list[Done]] = {}
    for done in history:
        for block in done.content:
            writes.setdefault(block, []).append(done)
    flushes = [done for done in history if done.kind == FLUSH]
    looked, lost = 0, []
    for number, promise in enumerate(promises):
        until = promises[number + 1].time if number + 1 < len(promises) else moments[-1] + 1
        for moment in [m for m in moments if promise.time <= m < until]:
            flushed = max((done.begin for done in flushes if done.end <= moment), default=0)
            for block, allowed in promise.blocks.items():
                held = may_hold(writes.get(block, []), block, moment, flushed)
                looked += len(held)
                lost += [f"block {block} may hold {found[:16]!r}" for found in held - allowed]
    return looked, lost
