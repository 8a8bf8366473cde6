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


def run(helpers, work, *, seconds=10.0, **options):
    results, disposed = [], []
    give_up = helpers.run("open x", work, results.append, seconds=seconds, dispose=disposed.append, **options)
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


def test_what_must_be_done_is_begun_again_until_there_is_a_thread(loop, monkeypatch):
    """Else a claim would never be given back."""
    really, refusals = helpers_module._thread.start_new_thread, [RuntimeError("can't start new thread")] * 2

    def refuse(body, arguments):
        if refusals:
            raise refusals.pop()
        return really(body, arguments)

    monkeypatch.setattr(helpers_module._thread, "start_new_thread", refuse)
    monkeypatch.setattr(helpers_module, "AGAIN_SECONDS", 0.01)
    helpers = Helpers(loop)
    results, _, _ = run(helpers, lambda: 42, must=True)
    until(loop, lambda: results)
    assert results == [42] and not refusals and helpers.running == 0


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


@pytest.fixture
def hangs(loop):
    """Work that hangs until the test is over."""
    release = threading.Event()
    yield release.wait
    release.set()


def places(loop, limit=32):
    """Helpers that take the first directory of a path for its file system."""
    return Helpers(loop, limit, place_of=lambda path: path.split("/")[1])


def test_one_dead_file_system_holds_a_quarter_of_the_threads_and_others_are_served(loop, hangs):
    helpers = places(loop)
    for number in range(40):
        run(helpers, hangs, path=f"/dead/{number}.img")
    results, _, _ = run(helpers, lambda: 42, path="/local/a.img", seconds=1.0)
    until(loop, lambda: results)
    assert results == [42] and helpers.running == 8


def test_what_waits_for_its_file_system_is_begun_when_that_answers(loop):
    release = threading.Event()
    helpers = places(loop)
    all_results = [run(helpers, release.wait, path=f"/slow/{number}.img")[0] for number in range(40)]
    assert helpers.running == 8
    release.set()
    until(loop, lambda: all(all_results))
    assert all_results == [[True]] * 40 and helpers.running == 0


def test_what_waits_for_a_dead_file_system_is_refused_by_its_name_at_its_time(loop, hangs):
    helpers = places(loop)
    for number in range(8):
        run(helpers, hangs, path=f"/dead/{number}.img")
    results, _, _ = run(helpers, pytest.fail, path="/dead/8.img", seconds=0.05)
    until(loop, lambda: results)
    assert results[0].errno == errno.EAGAIN and "dead" in str(results[0])


def test_a_disk_that_is_realized_has_a_thread_for_itself_and_no_second(loop, hangs):
    helpers = places(loop, limit=4)
    helpers.reserve("a")
    for _ in range(40):                                 # a guest that connects again and again
        results, _, _ = run(helpers, hangs, owner="a", seconds=0.001)
        until(loop, lambda results=results: results)
        assert results[0].errno == errno.ETIMEDOUT
    assert helpers.running == 1
    results, _, _ = run(helpers, lambda: 42, path="/dead/b.img", owner="b")
    until(loop, lambda: results)
    assert results == [42]


def test_a_full_pool_keeps_no_realized_disk_from_its_thread(loop, hangs):
    helpers = places(loop, limit=4)
    for number in range(4):
        run(helpers, hangs, path=f"/dead{number}/a.img")
    helpers.reserve("a")
    results, _, _ = run(helpers, lambda: 42, owner="a")
    until(loop, lambda: results)
    assert results == [42]


def test_a_disks_next_call_waits_for_the_one_that_hangs_and_is_made_then(loop):
    release = threading.Event()
    helpers = places(loop)
    helpers.reserve("a")
    _, disposed, give_up = run(helpers, lambda: release.wait() and "old", owner="a")
    give_up()
    results, _, _ = run(helpers, lambda: "new", owner="a")
    assert helpers.running == 1
    release.set()
    until(loop, lambda: results)
    assert (results, disposed) == (["new"], ["old"])


def test_what_must_be_done_is_done_though_nobody_waits_for_it_any_more(loop):
    release, closed = threading.Event(), []
    helpers = places(loop)
    helpers.reserve("a")
    run(helpers, release.wait, owner="a")
    results, _, _ = run(helpers, lambda: closed.append(1), owner="a", seconds=0.001, must=True)
    skipped, _, _ = run(helpers, lambda: closed.append(2), owner="a", seconds=0.001)
    until(loop, lambda: results and skipped)
    helpers.release("a")
    release.set()
    until(loop, lambda: helpers.running == 0)
    assert closed == [1]


def test_where_a_call_hangs_is_in_the_log(loop, caplog):
    """So that one that nobody expected to hang can be understood afterwards."""
    release = threading.Event()
    results, _, _ = run(helpers := Helpers(loop), release.wait, seconds=0.1)
    until(loop, lambda: results)
    release.set()
    until(loop, lambda: not helpers.running)
    assert "open x: no answer in 0.1 s: its thread is at threading.py:" in caplog.text and "wait()" in caplog.text
