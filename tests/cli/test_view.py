"""The live view, on a terminal and on a pipe; the progress bar."""
import io
import os

import pytest

from xenvbd.cli.progress import Progress
from xenvbd.cli.view import UP_AND_CLEAR, View, story


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_block_is_rewritten_on_a_terminal() -> None:
    out = Terminal()
    view = View(out)
    view.block(["a", "b"])
    view.block(["c", "d"])
    assert out.getvalue() == "a\nb\n" + UP_AND_CLEAR * 2 + "c\nd\n"


def test_a_line_goes_above_the_block() -> None:
    out = Terminal()
    view = View(out)
    view.block(["rates"])
    view.line("news")
    assert out.getvalue() == f"rates\n{UP_AND_CLEAR}news\nrates\n"


def test_a_block_is_lines_on_a_pipe() -> None:
    out = io.StringIO()
    View(out).block(["a", "b"])
    assert out.getvalue() == "a\nb\n"


def test_a_quiet_view_says_only_what_it_must() -> None:
    out = io.StringIO()
    view = View(out, quiet=True)
    view.line("handshake")
    view.block(["rates"])
    view.line("report", always=True)
    assert out.getvalue() == "report\n"


def test_the_daemons_events_are_told_as_a_story() -> None:
    connect = {"event": "xen_block_connect", "disk": "web1:xvda", "protocol": "x86_64-abi", "queues": 1,
               "ring_page_order": 2, "event_channels": [31]}
    assert story(connect) == "connect     x86_64-abi, rings 1x4p, event channel 31"
    assert story({"event": "xs_node_read"}) is None


def test_a_story_survives_a_field_that_is_missing() -> None:
    assert story({"event": "xen_block_disconnect"}) == "disconnect  -"


def test_progress_writes_hundredths_to_a_descriptor() -> None:
    reader, writer = os.pipe()
    progress = Progress(1000.0, fd=writer, quiet=True)
    progress.show()
    progress.show()
    progress.show(done=True)
    assert os.read(reader, 100) == b"0/100\n100/100\n"


def test_progress_goes_on_when_its_reader_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Progress(1.0, fd=writer, quiet=True).show()


def test_the_bar_says_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Progress(30.0, quiet=True).text(0.42, 12.6)
    assert "42% [*****************-----------------------] 12.6 s left" in text
