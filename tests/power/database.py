"""A guest that works like a database: many writes in flight, flushes among them, and a book of what it was promised."""
from __future__ import annotations

import random
import select
import time

from tests.crash.workload import BLOCK, SECTORS, content
from tests.power.replay import Promise
from tests.support.guest import FLUSH, OKAY, WRITE, Guest

SECONDS = 60


class Database:
    """written: the versions of each block, in order; acked: the last that was answered; promises: see replay."""

    def __init__(self, guest: Guest, seed: int, blocks: int = 24) -> None:
        self.guest, self.random = guest, random.Random(seed)
        self.pages = [guest.pages(1) for _ in range(blocks)]
        self.written: list[list[int]] = [[0] for _ in range(blocks)]
        self.acked = [0] * blocks
        self.flushes: list[tuple[int, list[int]]] = []      # when answered, and what had been acknowledged when asked
        self.busy: dict[int, int | list[int]] = {}          # by request: its block, or what a flush is to cover
        self.tick = 0

    def work(self, requests: int, depth: int, rest: bool = True) -> None:
        """So many requests, up to depth of them in flight; rest: until all are answered."""
        for number in range(requests):
            while len(self.busy) >= depth:
                self._take()
            self._ask(flush=number % 9 == 8)
        while rest and self.busy:
            self._take()

    def promises(self) -> list[Promise]:
        """Of each flush: a block holds what had been acknowledged before it was asked for, or something newer."""
        return [Promise(when, {block: {content(block, version) for version in versions if version >= covered[block]}
                               for block, versions in enumerate(self.written)}) for when, covered in self.flushes]

    def _ask(self, flush: bool) -> None:
        if flush:
            request = self.guest.request(FLUSH)
            self.busy[request.id] = list(self.acked)
        else:
            used = {block for block in self.busy.values() if isinstance(block, int)}
            block = self.random.choice([block for block in range(len(self.pages)) if block not in used])
            self.tick += 1
            self.written[block].append(self.tick)
            self.pages[block].bytes[:] = content(block, self.tick)
            request = self.guest.request(WRITE, block * SECTORS, self.pages[block].segments(BLOCK // 512))
            self.busy[request.id] = block
        self.guest.submit(request)

    def _take(self) -> None:
        deadline = time.monotonic() + SECONDS
        self.guest.take()
        while not self.guest.answered:
            assert time.monotonic() < deadline, "nothing is answered"
            if not self.guest.ring.final_check():
                select.select([self.guest.evtchn.fileno()], [], [], 1)
                while (port := self.guest.evtchn.pending()) is not None:
                    self.guest.evtchn.unmask(port)
            self.guest.take()
        now = time.monotonic_ns()
        for number, status in self.guest.answered.items():
            assert status == OKAY
            what = self.busy.pop(number)
            if isinstance(what, list):
                self.flushes.append((now, what))
            else:
                self.acked[what] = self.written[what][-1]
        self.guest.answered.clear()
