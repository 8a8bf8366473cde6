"""One life of a disk in which something fails: attach, a guest's requests, detach; then another plane without a fault.

An answer must never be false: what was answered OKAY is so, also to the plane after; what was answered ERROR, or not at
all, may be so or not."""
from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from tests.support.guest import DISCARD, FLUSH, OKAY, PAGE, READ, WRITE

BLOCKS, SECTORS = 12, 8
SECONDS = 60                        # without any progress


class Held(Exception):
    """A flush failed: nothing is answered any more, as it must be."""


class Life:
    """order: of the children; allowed: what each block may hold; errors: how many answers were."""

    def __init__(self, forker, guest, **order) -> None:
        self.forker, self.guest, self.order = forker, guest, order
        self.allowed = [{bytes(PAGE)} for _ in range(BLOCKS)]
        self.pages = [guest.pages(1) for _ in range(BLOCKS)]
        self.versions = 0
        self.said: dict = {}
        self.errors = 0

    def run(self, at: int, variant: int = 0) -> str:
        """With the fault of this number; what it was, "" if there are not so many.  The plane after has none."""
        failed = self.serve(at, variant)
        if "flush-failed" in self.said.get("events", ()):
            self.serve(0, 0, held=True)
        else:
            self.serve(0, 0, clean=True)
        return failed

    def serve(self, at: int, variant: int, *, clean: bool = False, held: bool = False) -> str:
        """One plane, from attach to detach; clean: nothing may fail; held: nothing may be answered."""
        self.said, self.errors = {"events": []}, 0
        self.pid = self.forker.order(at=at, variant=variant, **self.order)
        try:
            self.live(held)
        finally:
            if "status" not in self.said:
                os.kill(self.pid, signal.SIGKILL)
        assert self.said["status"] == 0, f"it died of {self.said['status']}: {self.said}"
        assert self.said["left"] == [], f"{self.said['failed']}: {self.said['left']} was left behind"
        assert not clean or ("refused" not in self.said and self.errors == 0), self.said
        return self.said["failed"]

    def live(self, held: bool) -> None:
        self.until(lambda: {"serving", "refused", "status"} & set(self.said))
        if "serving" in self.said:
            if held:
                assert self.guest.quiet(0.1), "a failed flush, or what came after it, was answered"
            else:
                with contextlib.suppress(Held):
                    self.requests()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        self.until(lambda: "status" in self.said)

    def requests(self) -> None:
        """What a guest asks for: each operation, alone and many at once."""
        for block in range(4):
            self.do(self.write(block))
        self.do(*(self.write(block) for block in range(4, 8)), *(self.read(block) for block in range(4)))
        self.do(self.flush())
        self.do(self.discard(5))
        self.do(self.write(*range(8, 12)))
        self.do(*(self.read(block) for block in range(BLOCKS)), self.flush())

    def write(self, *blocks: int):
        for block in blocks:
            self.versions += 1
            self.pages[block].bytes[:] = b"%016d" % self.versions * (PAGE // 16)
        return WRITE, blocks, self._data(WRITE, blocks)

    def read(self, block: int):
        return READ, (block,), self._data(READ, (block,))

    def discard(self, block: int):
        return DISCARD, (block,), self.guest.request(DISCARD, block * SECTORS, nr_sectors=SECTORS)

    def flush(self):
        return FLUSH, (), self.guest.request(FLUSH)

    def _data(self, operation: int, blocks):
        segments = tuple((self.pages[block].refs[0], 0, 7) for block in blocks)
        make = self.guest.request if len(blocks) < 2 else self.guest.indirect
        return make(operation, blocks[0] * SECTORS, segments)

    def do(self, *asked) -> None:
        """Put requests on the ring together, wait for their answers, and judge them."""
        for operation, blocks, _ in asked:      # from here on it may be there
            for block in blocks:
                if operation == WRITE:
                    self.allowed[block] |= {bytes(self.pages[block].bytes)}
                elif operation == DISCARD:
                    self.allowed[block] |= {bytes(PAGE)}
        requests = [request for _, _, request in asked]
        self.guest.submit(*requests)
        self.until(lambda: self.answered(requests))
        for operation, blocks, request in asked:
            status = self.guest.answered.pop(request.id)
            self.errors += status != OKAY
            for block in blocks if status == OKAY else ():
                self.judge(operation, block)

    def judge(self, operation: int, block: int) -> None:
        """After an answer OKAY."""
        if operation == WRITE:
            self.allowed[block] = {bytes(self.pages[block].bytes)}
        elif operation == READ:
            found = bytes(self.pages[block].bytes)
            assert found in self.allowed[block], f"block {block} reads as {found[:16]!r}"
            self.allowed[block] = {found}

    def answered(self, requests) -> bool:
        self.guest.take()
        if all(request.id in self.guest.answered for request in requests):
            return True
        if "flush-failed" in self.said["events"]:
            raise Held
        assert "status" not in self.said, f"it ended with requests unanswered: {self.said}"
        self.guest.ring.final_check()
        return False

    def until(self, condition) -> None:
        """Listen to guest and child until the condition holds."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"it hangs: {self.said}, {self.guest.outstanding}"
            select.select([self.guest.evtchn.fileno(), self.forker], [], [], 0.5)
            while (port := self.guest.evtchn.pending()) is not None:
                self.guest.evtchn.unmask(port)
            while (said := self.forker.hear()) is not None:
                events = self.said["events"] + ([said["event"]] if "event" in said else [])
                self.said |= said | {"events": events}
