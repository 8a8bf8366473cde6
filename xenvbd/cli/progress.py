"""How far a command has come: a bar on stderr for people, N/100 on a descriptor for programs."""
from __future__ import annotations

import contextlib
import os
import sys
import time

from xenvbd.cli import render

SPINNER = "▝▗▖▘"
WIDTH = 40
BESIDE = 24                         # columns of all but the stars


class Progress:
    """Of something that takes a known time.  The bar appears only if stderr is a terminal and quiet is False;
    the lines go to the descriptor fd, if one is given."""

    def __init__(self, seconds: float, *, fd: int | None = None, quiet: bool = False) -> None:
        self.seconds, self.fd = seconds, fd
        self.bar = sys.stderr.isatty() and not quiet
        self.started = time.monotonic()
        self.turn = 0
        self.percent = -1

    def show(self, *, done: bool = False) -> None:
        """Show where we are; done: it is over."""
        spent = self.seconds if done else min(self.seconds, time.monotonic() - self.started)
        share = spent / self.seconds if self.seconds else 1.0
        if self.bar:
            sys.stderr.write("\r\x1b[K" + ("" if done else self.text(share, self.seconds - spent)))
            sys.stderr.flush()
        if self.fd is not None and int(share * 100) != self.percent:
            self.percent = int(share * 100)
            # Whoever reads may have gone; the run goes on.
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self.fd, b"%d/100\n" % self.percent)

    def text(self, share: float, left: float) -> str:
        """The bar: a spinner, percent, stars, what is left; as wide as the terminal has room for."""
        self.turn += 1
        size = render.terminal(sys.stderr)
        stars = min(WIDTH, max(0, size.columns - BESIDE)) if size else WIDTH
        bar = ("*" * round(share * stars)).ljust(stars, "-")
        return f"{SPINNER[self.turn % len(SPINNER)]} {share:4.0%} [{bar}] {left:.1f} s left"
