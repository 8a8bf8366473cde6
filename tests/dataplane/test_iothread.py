"""The thread of a queue: whoever starts it hears of it, however it ends."""
import errno
import threading

import pytest

from xenvbd.dataplane import iothread
from xenvbd.dataplane.iothread import ALIVE, IoThread


def test_it_runs_until_its_body_ends() -> None:
    go = threading.Event()

    def body(report) -> None:
        report(0)
        go.wait()

    thread = IoThread(body)
    assert not thread.join(0.01) and thread in ALIVE
    go.set()
    assert thread.join(10) and thread.join() and thread not in ALIVE


def test_one_that_cannot_work_has_ended_when_that_is_raised() -> None:
    with pytest.raises(OSError) as caught:
        IoThread(lambda report: report(-errno.EPERM))
    assert caught.value.errno == errno.EPERM and not ALIVE


def test_one_that_never_began_is_not_waited_for(monkeypatch) -> None:
    """As when there is no memory for its first frame."""
    monkeypatch.setattr(iothread._thread, "start_new_thread", lambda body, arguments: None)
    with pytest.raises(OSError) as caught:
        IoThread(lambda report: report(0))
    assert caught.value.errno == errno.ENOMEM and not ALIVE


def test_a_host_without_room_for_a_thread_says_so(monkeypatch) -> None:
    def refuse(body, arguments) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(iothread._thread, "start_new_thread", refuse)
    with pytest.raises(OSError, match="can't start new thread") as caught:
        IoThread(lambda report: report(0))
    assert caught.value.errno == errno.EAGAIN and not ALIVE


def test_one_that_breaks_before_it_reports_is_out_of_memory() -> None:
    def body(report) -> None:
        raise MemoryError

    with pytest.raises(OSError) as caught:
        IoThread(body)
    assert caught.value.errno == errno.ENOMEM and not ALIVE
