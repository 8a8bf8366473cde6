"""The event loop: descriptors, timers, calls from other threads; one callback that fails is alone in it."""
import gc
import os
import socket
import threading
import time

import pytest

from xenvbd.loop import Loop, Timer


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


def test_a_readable_descriptor_calls_back_until_it_is_forgotten(loop):
    fd = os.eventfd(1, os.EFD_NONBLOCK)
    calls = []
    loop.read(fd, lambda: calls.append(1))
    loop.run_once(1)
    loop.run_once(1)
    loop.forget(fd)
    loop.run_once(0)
    assert calls == [1, 1]
    os.close(fd)


def test_a_timer_may_be_so_far_away_that_no_kernel_takes_the_time(loop):
    """Taking a disk over waits for its image "for ever": alone in the loop, that ended the manager."""
    never = loop.later(1e9, lambda: pytest.fail("already?"))
    fd = os.eventfd(1, os.EFD_NONBLOCK)
    loop.read(fd, never.cancel)
    loop.run_once()
    assert never.callback is None
    os.close(fd)


def test_timers_that_were_cancelled_are_not_kept_until_their_time(loop):
    for _ in range(1000):
        loop.later(1e9, lambda: None).cancel()
    assert sum(isinstance(each, Timer) for each in gc.get_objects()) < 200


def test_pruning_keeps_the_order_of_those_that_are_left(loop):
    called = []
    for number in range(200):
        timer = loop.later(0.001 * (200 - number), lambda number=number: called.append(number))
        if number % 2:
            timer.cancel()
    deadline = time.monotonic() + 10
    while len(called) < 100:
        assert time.monotonic() < deadline
        loop.run_once(0.05)
    assert called == list(range(198, -1, -2))


def test_reading_and_writing_are_asked_for_separately(loop):
    left, right = socket.socketpair()
    calls = []
    loop.write(left.fileno(), lambda: calls.append("write"))
    loop.read(left.fileno(), lambda: calls.append("read"))
    loop.run_once(0)
    right.send(b"x")
    loop.write(left.fileno(), None)
    loop.run_once(1)
    assert calls == ["write", "read"]
    loop.forget(left.fileno())
    left.close()
    right.close()


def test_a_descriptor_closed_by_an_earlier_callback_of_the_round_is_not_called(loop):
    fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(2)]
    calls = []

    def first(mine):
        calls.append(mine)
        for fd in fds:
            loop.forget(fd)

    for fd in fds:
        loop.read(fd, lambda fd=fd: first(fd))
    loop.run_once(1)
    assert len(calls) == 1
    for fd in fds:
        os.close(fd)


def test_timers_run_in_order_and_not_if_cancelled(loop):
    calls = []
    loop.later(0.02, lambda: calls.append("late"))
    loop.later(0.01, lambda: calls.append("early"))
    loop.later(0.005, lambda: calls.append("never")).cancel()
    deadline = time.monotonic() + 5
    while len(calls) < 2 and time.monotonic() < deadline:
        loop.run_once(0.1)
    assert calls == ["early", "late"]


def test_another_thread_wakes_the_loop(loop):
    calls = []
    thread = threading.Thread(target=lambda: loop.soon(lambda: calls.append(1)))
    loop.later(60, lambda: calls.append(0))
    loop.soon(thread.start)
    while not calls:
        loop.run_once(60)
    thread.join()
    assert calls == [1], "by the thread, not by the timer"


def test_a_callback_that_raises_is_counted_and_the_others_run(loop):
    calls = []
    loop.soon(lambda: 1 / 0)
    loop.soon(lambda: calls.append(1))
    loop.run_once(0)
    assert calls == [1] and loop.failures == 1


def test_a_call_that_comes_after_the_end_is_forgotten():
    loop = Loop()
    loop.close()
    loop.soon(lambda: 1 / 0)


def test_run_ends_when_told_to(loop):
    loop.later(0.001, loop.stop)
    loop.run()


def test_without_memory_for_a_callback_whoever_runs_the_loop_is_told(loop):
    calls = []

    def exhausted():
        raise MemoryError

    loop.on_exhausted = lambda: calls.append("told")
    loop.soon(exhausted)
    loop.soon(lambda: calls.append("next"))
    loop.run_once(0)
    assert calls == ["told", "next"] and loop.failures == 1
