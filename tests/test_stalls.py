"""The alarm: when it is raised, how often it is told, when it is over."""
import pytest

from xenvbd import stalls
from xenvbd.stalls import Stalls


class Clock:
    """A loop and its time, which passes as the test says."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def monotonic(self):
        return self.now

    def later(self, seconds, callback):
        self.timers.append([self.now + seconds, callback])
        return self

    def cancel(self):
        self.timers.clear()

    def pass_time(self, seconds):
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, callback = self.timers.pop(0)
            callback()
        self.now = end


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(stalls, "time", made)
    return made


class Watched:
    def __init__(self, clock, alarm=8.0):
        self.requests, self.told = [], []
        self.stalls = Stalls(clock, alarm, lambda: self.requests, self.told.append)
        self.stalls.start()


def test_a_request_that_has_no_answer_for_long_is_told_of_and_again_when_that_has_doubled(clock):
    watched = Watched(clock)
    watched.requests = [(0, 7), (0, 8)]
    clock.pass_time(8)
    assert watched.told == []
    clock.pass_time(1)
    assert watched.told == ["its storage hangs: no answer for 8 s (requests: 2)"]
    clock.pass_time(7)
    assert len(watched.told) == 1 and watched.stalls.seconds == 15
    clock.pass_time(1)
    assert watched.told[1:] == ["its storage hangs: no answer for 16 s (requests: 2)"]


def test_it_is_over_when_they_are_answered(clock):
    watched = Watched(clock)
    watched.requests = [(0, 7)]
    clock.pass_time(10)
    watched.requests = [(0, 8)]
    clock.pass_time(1)
    assert watched.told[-1] == "all is answered again that had none for 9 s"
    assert (watched.stalls.requests, watched.stalls.seconds) == (0, 0)


def test_a_disk_that_is_only_busy_is_no_alarm(clock):
    watched = Watched(clock)
    for turn in range(100):
        watched.requests = [(0, turn + i) for i in range(3)]
        clock.pass_time(1)
    assert watched.told == []


def test_one_request_among_many_that_go_on_is(clock):
    watched = Watched(clock)
    for turn in range(10):
        watched.requests = [(1, 3), (0, turn)]
        clock.pass_time(1)
    assert watched.told == ["its storage hangs: no answer for 8 s (requests: 1)"]


def test_nothing_is_remembered_of_what_was_before_a_stop(clock):
    watched = Watched(clock)
    watched.requests = [(0, 7)]
    clock.pass_time(20)
    watched.stalls.stop()
    assert (watched.stalls.requests, clock.timers) == (0, [])
    watched.stalls.start()
    clock.pass_time(7)
    assert watched.stalls.requests == 0


def test_it_may_be_switched_off(clock):
    Watched(clock, alarm=None)
    assert clock.timers == []
