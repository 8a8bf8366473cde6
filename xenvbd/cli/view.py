"""The live view of a run: lines that stay, and under them a block that is rewritten (on a terminal) or repeated."""
from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from xenvbd.cli import render
from xenvbd.text import cut, padded, printable, width

UP_AND_CLEAR = "\x1b[1A\x1b[2K"

# The daemon's events that tell the story of a disk, and how; the states are told by the guest, which sees both ends.
STORY = {
    "xen_block_realize": "realize     {target}, mode {mode}",
    "xen_block_connect": "connect     {protocol}, rings {queues}x{pages}p, event channel {event_channels}",
    "xen_block_disconnect": "disconnect  {reason}",
    "xen_block_unrealize": "unrealize",
}


class View:
    """Writes to a stream; quiet: only what is told with always=True."""

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False) -> None:
        self.out = out or sys.stdout
        self.quiet = quiet
        self.tty = self.out.isatty()
        self.started = time.monotonic()
        self._block: list[str] = []
        self._drawn: list[str] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the view began."""
        return time.monotonic() - self.started

    def line(self, text: str = "", *, always: bool = False) -> None:
        """Write a line that stays, above the block."""
        if self.quiet and not always:
            return
        self._erase()
        print(text, file=self.out)
        self._draw()

    def happened(self, who: str, what: str) -> None:
        """Write what has just happened, with its time, in one line of the terminal."""
        self.line(self._cut(f"{self.elapsed:7.2f} s  {padded(who, 14)}  {what}"))

    def block(self, lines: Sequence[str]) -> None:
        """Show these lines now: in the place of the last block on a terminal, as lines elsewhere."""
        if self.quiet:
            return
        if not self.tty:
            for text in lines:
                self.line(text)
            return
        self._erase()
        self._block = list(lines)
        self._draw()

    def settle(self) -> None:
        """The block stays as it is, whole; what comes next goes below it."""
        self._erase()
        for text in self._block:
            print(self._cut(text), file=self.out)
        self._block = []
        self.out.flush()

    def _erase(self) -> None:
        """Clear the rows of the block, which are more than were drawn if the terminal was made narrower since."""
        size = render.terminal(self.out)
        rows = sum(max(1, -(-width(text) // size.columns)) if size else 1 for text in self._drawn)
        self.out.write(UP_AND_CLEAR * rows)
        self._drawn = []

    def _draw(self) -> None:
        """Draw of the block what the terminal has rows for: what has scrolled away cannot be drawn over."""
        size = render.terminal(self.out)
        shown = self._block
        if size and len(shown) > (most := max(1, size.lines - 2)):
            shown = [*shown[:most - 1], f"... and {len(shown) - most + 1} more"]
        self._drawn = [self._cut(text) for text in shown]
        for text in self._drawn:
            print(text, file=self.out)
        self.out.flush()

    def _cut(self, text: str) -> str:
        """The line, fit for the terminal; a column is left free, for some wrap after the last."""
        size = render.terminal(self.out)
        return cut(printable(text), size.columns - 1) if size else printable(text)


def story(event: Mapping[str, Any]) -> str | None:
    """What an event of the daemon says in the live view; None if it is not for it."""
    form = STORY.get(str(event.get("event")))
    if form is None:
        return None
    fields = {key: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
              for key, value in event.items()}
    fields["pages"] = 1 << int(fields.get("ring_page_order") or 0)
    return form.format_map(_Dashes(fields))


class _Dashes(dict[str, Any]):
    """A field that an event does not have is shown as a dash."""

    def __missing__(self, key: str) -> str:
        return "-"
