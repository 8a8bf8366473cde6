"""Random requests, judged by the code that serves them and by a second reading of blkif.h in a few lines of Python.

XENVBD_MODEL=10000000 for a long run, XENVBD_SEED for another one."""
import os
import random

from xenvbd.request import check
from xenvbd.ring import Request

COUNT = int(os.environ.get("XENVBD_MODEL", "100000"))
READ, WRITE, BARRIER, FLUSH, RESERVED, DISCARD, INDIRECT = range(7)
OKAY, ERROR, NOSUP = 0, -1, -2


def model(r: Request, segments: list, *, capacity: int, read_only: bool, discard: bool, barrier: bool,
          max_indirect: int, logical_block_size: int) -> int:
    """The status: unbounded integers, nothing shared with the code under test."""
    block = logical_block_size // 512
    op = r.operation
    effective = r.sub if op == INDIRECT else op
    if op > INDIRECT or op == RESERVED or (op == INDIRECT and max_indirect == 0):
        return NOSUP
    if op == INDIRECT and effective not in (READ, WRITE):
        return ERROR
    data = op == INDIRECT or (op in (READ, WRITE, BARRIER, FLUSH) and r.nr_segments > 0)
    if read_only and (effective in (WRITE, BARRIER, DISCARD) or (effective == FLUSH and data)):
        return ERROR
    if (op == BARRIER and not barrier) or (op == DISCARD and (not discard or r.sub)):
        return NOSUP
    if op == DISCARD:
        good = r.sector + r.nr_sectors <= capacity and r.sector % block == r.nr_sectors % block == 0
        return OKAY if good else ERROR
    if not data:
        return ERROR if op in (READ, WRITE) else OKAY
    if op == INDIRECT and not 1 <= r.nr_segments <= min(max_indirect, 8 * 512):
        return ERROR
    if op != INDIRECT and r.nr_segments > 11:
        return ERROR
    if any(not first <= last <= 7 for _, first, last in segments):
        return ERROR
    total = sum(last - first + 1 for _, first, last in segments)
    return OKAY if r.sector + total <= capacity and r.sector % block == total % block == 0 else ERROR


def near(rng: random.Random, capacity: int) -> int:
    """A sector where something may go wrong, or any."""
    edge = rng.choice([0, capacity, 1 << 55, 1 << 63, (1 << 64) - 1, rng.randrange(capacity + 1)])
    return max(0, min((1 << 64) - 1, edge + rng.choice([-88, -8, -1, 0, 0, 1, 8])))


def a_request(rng: random.Random, capacity: int) -> tuple[Request, list]:
    op = rng.choice([*range(7), READ, WRITE, INDIRECT, INDIRECT, rng.randrange(256)])
    sub = rng.choice([READ, WRITE, rng.randrange(256)]) if op in (DISCARD, INDIRECT) else 0
    counts = [0, 1, 12, 32, 33, 65535] if op == INDIRECT else [0, 1, 2, 11, 12, 255, rng.randrange(12)]
    count = rng.choice(counts)
    aligned = rng.random() < 0.7
    segments = [(1, 0, 7) if aligned or rng.random() < 0.8 else (1, rng.randrange(9), rng.randrange(9))
                for _ in range(min(count, 33))]
    direct = tuple(segments[:11]) if op not in (DISCARD, INDIRECT) else ()
    request = Request(op, 1, near(rng, capacity) & (~7 if aligned else -1), direct, sub, count,
                      nr_sectors=near(rng, capacity) if op == DISCARD else 0)
    return request, segments


def test_random_requests_are_judged_as_a_second_reading_of_blkif_h_does() -> None:
    seed = int(os.environ.get("XENVBD_SEED", "155"))
    rng, seen = random.Random(seed), {OKAY: 0, ERROR: 0, NOSUP: 0}
    for number in range(COUNT):
        limits = {"capacity": rng.choice([8, 8192, 1 << 40]), "read_only": rng.random() < 0.2,
                  "discard": rng.random() < 0.8, "barrier": rng.random() < 0.5,
                  "max_indirect": rng.choice([0, 32, 32]), "logical_block_size": rng.choice([512, 512, 4096])}
        request, segments = a_request(rng, limits["capacity"])
        expected = model(request, segments, **limits)
        status = check(request, **limits, segments=segments)[0]
        assert status == expected, f"number {number} of seed {seed}: {request} {limits}"
        seen[status] += 1
    assert min(seen.values()) > COUNT // 20, "each outcome must come often enough to mean something"
