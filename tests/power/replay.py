"""What a disk may hold after a power cut: of every moment of a recorded run, by the rules of a disk with a cache.

A write that had ended before a flush began, and that flush has ended: it is there.  Any other that has begun may be
there, or not, whatever became of those before and after it.  Blocks do not depend on each other, so to look at what
each of them may hold at a moment is to look at every reordering of what was not flushed."""
from __future__ import annotations

from typing import NamedTuple

from tests.crash.forker import MAGIC, RECORD, TAKEN_OVER
from tests.crash.workload import BLOCK

READ, WRITE, FLUSH, DISCARD = range(4)
BEGIN = MAGIC.to_bytes(8, "little")
NEVER = 1 << 63


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
    """The operations of a record, by the time of their end: if whoever had begun it was killed, when the next had the
    image's lock; NEVER, if there is no next."""
    with open(path, "rb") as file:
        data = file.read()
    begun: dict[int, Done] = {}
    found, at = [], 0
    while at < len(data):
        at, beyond = data.index(BEGIN, at), data.find(BEGIN, at + 8)
        size = (beyond if beyond > 0 else len(data)) - at
        if size < RECORD.size:          # who wrote it was killed before he had asked anything of the storage
            at += size
            continue
        _, kind, ended, time, op, offset, length, result = RECORD.unpack_from(data, at)
        body, at = data[at + RECORD.size:at + size], at + size
        if kind == WRITE and not ended and len(body) < length:
            continue
        if ended:
            assert result >= 0, "the storage failed"
            found.append(begun.pop(op)._replace(end=time))
            continue
        if kind == TAKEN_OVER:
            found += [done._replace(end=time) for done in begun.values()]
            begun.clear()
            continue
        blocks = range(offset // BLOCK, (offset + length) // BLOCK) if kind in (WRITE, DISCARD) else range(0)
        content = {block: body[i * BLOCK:][:BLOCK] if kind == WRITE else bytes(BLOCK) for i, block in enumerate(blocks)}
        begun[op] = Done(kind, time, NEVER, content)
    return sorted([*found, *begun.values()], key=lambda done: done.end)


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
    moments = sorted({time for done in history for time in (done.begin, done.end) if time != NEVER}
                     | {p.time for p in promises})
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
