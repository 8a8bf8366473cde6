"""A guest that writes, rewrites, flushes, discards and reads back, and knows what each block must hold.

A block of 4096 bytes carries its number and the version that was written last; a block is rewritten only once the
write before was answered, so what is read is exactly what was written last, whoever was killed meanwhile.
"""
from __future__ import annotations

import random
import select
import time

from tests.support.guest import DISCARD, FLUSH, OKAY, READ, WRITE, Guest

BLOCK, SECTORS = 4096, 8
SECONDS = 30                        # without any progress


def content(block: int, version: int) -> bytes:
    """What a block holds; version 0: never written, or discarded."""
    return (b"%08d.%07d" % (block, version)) * (BLOCK // 16) if version else bytes(BLOCK)


class Workload:
    """Rounds of requests, each answered before the next; on `planes`, of which the next starts when one dies."""

    def __init__(self, guest: Guest, planes, seed: int, blocks: int = 16) -> None:
        self.guest, self.planes, self.random = guest, planes, random.Random(seed)
        self.versions, self.tick = [0] * blocks, 0
        self.pages = [guest.pages(1) for _ in range(blocks)]
        self.crashes: list[int] = []        # crash points of the planes to come
        self.answered = 0

    def round(self, depth: int) -> None:
        """So many requests at once, on blocks of their own, some of them flushes."""
        requests, reads = [], {}
        blocks = iter(self.random.sample(range(len(self.versions)), min(depth, len(self.versions))))
        while len(requests) < depth and (block := next(blocks, None)) is not None:
            kind = self.random.choice((WRITE, WRITE, WRITE, READ, READ, DISCARD))
            requests.append(self._request(kind, block))
            if kind == READ:
                reads[block] = self.versions[block]
            if len(requests) < depth and self.random.random() < 0.15:
                requests.append(self.guest.request(FLUSH))
        self.do(requests)
        for block, version in reads.items():
            self._check(block, version)

    def verify(self) -> None:
        """Read everything back."""
        blocks = range(len(self.versions))
        for block in blocks:
            self.do([self._request(READ, block)])
            self._check(block, self.versions[block])

    def do(self, requests) -> None:
        """Put requests on the ring, and see each answered once and well."""
        self.guest.submit(*requests)
        deadline = time.monotonic() + SECONDS
        while True:
            before = len(self.guest.answered)
            self.guest.take()
            if len(self.guest.answered) != before:
                deadline = time.monotonic() + SECONDS
            if all(request.id in self.guest.answered for request in requests):
                break
            self._wait(deadline)
        assert {self.guest.answered.pop(request.id) for request in requests} == {OKAY}
        self.answered += len(requests)

    def _wait(self, deadline: float) -> None:
        assert time.monotonic() < deadline, f"unanswered: {self.guest.outstanding}, crash points {self.crashes}"
        if not self.planes.look():
            crash = self.crashes.pop(0) if self.crashes else 0
            self.planes.start(crash=crash, adopt=True)
        if not self.guest.ring.final_check():
            select.select([self.guest.evtchn.fileno(), self.planes.forker], [], [], 1)
            while (port := self.guest.evtchn.pending()) is not None:
                self.guest.evtchn.unmask(port)

    def _request(self, kind: int, block: int):
        page = self.pages[block]
        if kind == DISCARD:
            self.versions[block] = 0
            return self.guest.request(DISCARD, block * SECTORS, nr_sectors=SECTORS)
        if kind == WRITE:
            self.tick += 1
            self.versions[block] = self.tick
            page.bytes[:] = content(block, self.tick)
        segments = page.segments(SECTORS)
        return self.guest.request(kind, block * SECTORS, segments) if self.random.random() < 0.7 \
            else self.guest.indirect(kind, block * SECTORS, segments)

    def _check(self, block: int, version: int) -> None:
        found = bytes(self.pages[block].bytes)
        assert found == content(block, version), f"block {block}: {found[:16]!r}, expected version {version}"
