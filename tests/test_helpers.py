"""Calls that may hang: a result, an error, a deadline, and nothing lost that comes too late."""
import errno
import sys
import threading
import time

import pytest

from xenvbd import helpers as helpers_module
from xenvbd.helpers import Helpers
from xenvbd.loop import Loop


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    assert loop.failures == 0
    loop.close()


def until(loop, condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        loop.run_once(0.05)


def run(helpers, work, *, seconds=10.0):
    results, disposed = [], []
    give_up = helpers.run("open x", work, results.append, seconds=seconds, dispose=disposed.append)
    return results, disposed, give_up


def test_a_result_arrives_in_the_loop(loop):
    results, disposed, _ = run(Helpers(loop), lambda: 42)
    until(loop, lambda: results)
    assert (results, disposed) == ([42], [])


def test_an_error_is_a_result(loop):
    def fail():
        raise FileNotFoundError(errno.ENOENT, "no such file")
    results, _, _ = run(Helpers(loop), fail)
    until(loop, lambda: results)
    assert results[0].errno == errno.ENOENT


def test_a_fault_in_the_work_is_an_error_too(loop):
    results, _, _ = run(Helpers(loop), lambda: 1 // 0)
    until(loop, lambda: results)
    assert "ZeroDivisionError" in str(results[0])


def test_a_call_that_hangs_times_out_and_its_late_result_is_disposed_of(loop):
    release = threading.Event()
    helpers = Helpers(loop)
    results, disposed, _ = run(helpers, lambda: release.wait() and "image", seconds=0.05)
    until(loop, lambda: results)
    assert results[0].errno == errno.ETIMEDOUT and "open x" in str(results[0])
    assert helpers.running == 1
    release.set()
    until(loop, lambda: disposed)
    assert disposed == ["image"] and len(results) == 1 and helpers.running == 0


def test_what_was_given_up_is_disposed_of_and_not_told(loop):
    release = threading.Event()
    results, disposed, give_up = run(Helpers(loop), lambda: release.wait() and "image")
    give_up()
    release.set()
    until(loop, lambda: disposed)
    assert results == []


def test_without_a_thread_it_is_refused(loop, monkeypatch):
    def refuse(body, arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(helpers_module._thread, "start_new_thread", refuse)
    helpers = Helpers(loop)
    results, _, _ = run(helpers, lambda: 42)
    until(loop, lambda: results)
    assert results[0].errno == errno.EAGAIN and "open x" in str(results[0]) and helpers.running == 0


def test_a_thread_that_cannot_even_begin_is_not_waited_for(loop, monkeypatch):
    def dies(body, hold):
        raise MemoryError

    monkeypatch.setattr(helpers_module, "_run", dies)
    monkeypatch.setattr(sys, "unraisablehook", lambda what: None)
    helpers = Helpers(loop)
    results, _, _ = run(helpers, lambda: 42)
    until(loop, lambda: results)
    assert results[0].errno == errno.ENOMEM and helpers.running == 0


def test_want_of_memory_is_an_error_too(loop):
    def fail():
        raise MemoryError

    results, _, _ = run(Helpers(loop), fail)
    until(loop, lambda: results)
    assert results[0].errno == errno.ENOMEM


def test_too_many_hanging_calls_are_refused(loop):
    release = threading.Event()
    helpers = Helpers(loop, limit=2)
    for _ in range(2):
        run(helpers, release.wait)
    results, _, _ = run(helpers, lambda: 1)
    until(loop, lambda: results)
    assert results[0].errno == errno.EAGAIN
    release.set()
    until(loop, lambda: helpers.running == 0)
