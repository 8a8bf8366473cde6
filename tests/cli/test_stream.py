"""Lines from pipes, in one thread."""
import os

import pytest

from xenvbd.cli.stream import Streams


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_lines_come_whole_however_they_were_written(pipe: tuple[int, int]) -> None:
    streams, got = Streams(), list[bytes]()
    streams.lines(pipe[0], got.append)
    for part in (b"on", b"e\ntwo\nth", b"ree\n"):
        os.write(pipe[1], part)
        streams.wait(1)
    assert got == [b"one", b"two", b"three"]


def test_the_last_line_needs_no_newline_and_the_end_is_told_once(pipe: tuple[int, int]) -> None:
    streams, got = Streams(), list[bytes]()
    streams.lines(pipe[0], got.append, lambda: got.append(b"END"))
    os.write(pipe[1], b"half")
    os.close(pipe[1])
    assert streams.until(lambda: b"END" in got, 5)
    streams.wait(0)
    assert got == [b"half", b"END"]


def test_until_gives_up_after_its_time() -> None:
    assert not Streams().until(lambda: False, 0.01)


def test_an_exception_of_a_callback_comes_out(pipe: tuple[int, int]) -> None:
    streams = Streams()
    streams.watch(pipe[0], lambda: 1 / 0)
    os.write(pipe[1], b"x")
    with pytest.raises(ZeroDivisionError):
        streams.wait(1)
