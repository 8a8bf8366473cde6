"""The manager's side of a worker, against a small worker of the test's own: calls, death, being found again."""
import contextlib
import errno
import os
import signal
import sys
import time

import pytest

from xenvbd.loop import Loop
from xenvbd.runtime import Runtime
from xenvbd.workers import MAX_DEATHS, Workers

# A worker that knows three verbs and, like the real one, can be found again by its socket.
FAKE = r"""
import contextlib, json, os, select, socket, sys
from xenvbd.wire import Wire
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
manager = socket.socket(fileno=int(options["--fd"]))
told = {} if "--domid" in options else manager.recv(100)
if told == b"":
    sys.exit(0)
domid = options.get("--domid") or json.loads(told)["domid"]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(f"{options['--runtime']}/worker-{domid}.sock")
listener.listen(4)
wire = Wire(manager)
while True:
    ready, _, _ = select.select([listener, *([wire] if wire else [])], [], [])
    if listener in ready:
        wire = Wire(listener.accept()[0])
        continue
    try:
        message = wire.receive()
    except EOFError:
        wire = None
        continue
    number, verb = message.body["call"], message.body["verb"]
    if verb == "echo":
        contents = [os.pread(fd, 100, 0).decode() for fd in message.fds]
        with contextlib.suppress(OSError):
            wire.send({"reply": number, "result": {"said": message.body["say"], "contents": contents}})
            wire.send({"event": "io-error", "disk": "vbd-7-51712"})
    elif verb == "garbage":
        wire._sock.send(b"no json")
    elif verb == "stop":
        sys.exit(0)
    message.close()
"""


class Manager:
    """A loop with the workers of a runtime directory."""

    def __init__(self, path, script, spare=False):
        self.loop = Loop()
        self.workers = Workers(self.loop, Runtime(path), "sim:none", 0, (sys.executable, "-P", str(script)),
                               spare=spare)
        self.exits, self.events = [], []
        self.workers.on_exit = lambda worker: self.exits.append(worker.domid)
        self.workers.on_event = lambda domid, event: self.events.append((domid, event["event"]))

    def until(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            self.loop.run_once(0.1)

    def call(self, verb, fds=(), **params):
        results = []
        self.workers.get(7).call(verb, results.append, fds, **params)
        self.until(lambda: results)
        return results[0]

    def started(self):
        """The worker's pid, once it can be found by its socket."""
        self.call("echo", say="hello")
        return self.workers.get(7).pid


@pytest.fixture
def script(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    return tmp_path / "fake.py"


@contextlib.contextmanager
def managing(tmp_path, script, **options):
    before = set(os.listdir("/proc/self/fd"))
    manager = Manager(tmp_path, script, **options)
    yield manager
    for worker in list(manager.workers.by_domid.values()):
        os.kill(worker.pid, signal.SIGKILL)
    manager.until(lambda: not manager.workers.by_domid)
    manager.workers.close()
    manager.loop.close()
    assert len(os.listdir("/proc/self/fd")) <= len(before), "a descriptor was left open"


@pytest.fixture
def manager(tmp_path, script):
    with managing(tmp_path, script) as manager:
        yield manager


@pytest.fixture
def thrifty(tmp_path, script, monkeypatch):
    """A manager that keeps a spare worker."""
    monkeypatch.setattr("xenvbd.workers.SPARE_SECONDS", 0)
    with managing(tmp_path, script, spare=True) as manager:
        yield manager


def spare(manager):
    """The pid of the spare worker, once there is one."""
    manager.until(lambda: manager.workers._spare)
    return manager.workers._spare.child.pid


def test_a_call_carries_descriptors_and_brings_a_reply(manager):
    fd = os.memfd_create("image")
    os.write(fd, b"content")
    assert manager.call("echo", [fd], say="hello") == {"said": "hello", "contents": ["content"]}
    with pytest.raises(OSError):
        os.fstat(fd)


def test_an_event_is_told_with_its_domain(manager):
    manager.call("echo", say="x")
    manager.until(lambda: manager.events)
    assert manager.events == [(7, "io-error")]


def test_a_domain_has_one_worker(manager):
    assert manager.workers.get(7) is manager.workers.get(7)


def test_a_killed_worker_is_noticed_and_its_calls_fail(manager):
    pid = manager.started()
    results = []
    manager.workers.get(7).call("never-answered", results.append)
    os.kill(pid, signal.SIGKILL)
    manager.until(lambda: manager.exits and results)
    assert results[0].errno == errno.EPIPE and manager.exits == [7]


def test_after_a_death_the_next_call_gets_a_new_worker(manager):
    pid = manager.started()
    os.kill(pid, signal.SIGKILL)
    manager.until(lambda: manager.exits)
    assert manager.call("echo", say="again")["said"] == "again"
    assert manager.workers.get(7).pid != pid


def test_a_call_to_a_dead_worker_closes_its_descriptors_and_fails_later(manager):
    worker = manager.workers.get(7)
    manager.started()
    os.kill(worker.pid, signal.SIGKILL)
    manager.until(lambda: manager.exits)
    results = []
    worker.call("echo", results.append, [os.memfd_create("image")])
    assert results == []
    manager.until(lambda: results)
    assert results[0].errno == errno.EPIPE


def test_a_later_manager_finds_the_worker_and_the_earlier_one_left_it_alone(manager, tmp_path, script):
    pid = manager.started()
    manager.workers.close()
    later = Manager(tmp_path, script)
    assert [worker.pid for worker in later.workers.find_all()] == [pid]
    assert later.call("echo", say="still here")["said"] == "still here"
    os.kill(pid, signal.SIGKILL)
    later.until(lambda: later.exits)
    later.loop.close()


def test_the_socket_of_a_dead_worker_finds_nobody(manager):
    pid = manager.started()
    manager.workers.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert manager.workers.find_all() == []


def test_a_worker_that_breaks_the_protocol_is_killed(manager):
    manager.started()
    manager.workers.get(7).call("garbage", lambda result: None)
    manager.until(lambda: manager.exits == [7])


def test_a_dismissed_worker_ends_and_the_next_disk_gets_a_new_one_at_once(manager):
    pid = manager.started()
    manager.workers.dismiss(7)
    assert manager.call("echo", say="new")["said"] == "new" and manager.workers.get(7).pid != pid
    manager.until(lambda: manager.exits == [7] and manager.workers.running == 1)


def test_a_worker_that_is_dismissed_before_it_has_begun_leaves_no_socket(manager, tmp_path):
    manager.workers.get(7)
    manager.workers.dismiss(7)
    manager.until(lambda: manager.exits == [7])
    assert not (tmp_path / "worker-7.sock").exists()


def test_a_worker_that_keeps_dying_is_not_started_on_and_on(manager):
    for _ in range(MAX_DEATHS):
        manager.exits.clear()
        os.kill(manager.started(), signal.SIGKILL)
        manager.until(lambda: manager.exits)
    with pytest.raises(OSError, match="died 5 times"):
        manager.workers.get(7)


def test_a_worker_that_is_killed_again_and_again_fills_no_log(manager, monkeypatch, caplog):
    monkeypatch.setattr("xenvbd.workers.PAUSE_SECONDS", 0.0)
    caplog.set_level("INFO", "xenvbd.workers")
    for _ in range(12):
        manager.exits.clear()
        os.kill(manager.started(), signal.SIGKILL)
        manager.until(lambda: manager.exits)
    assert len(caplog.records) <= 12


def test_a_program_that_cannot_be_started_is_an_error_and_leaves_nothing(tmp_path):
    loop = Loop()
    workers = Workers(loop, Runtime(tmp_path), "sim:none", 0, ("/nonexistent",))
    with pytest.raises(FileNotFoundError):
        workers.get(7)
    loop.close()


def test_a_worker_that_is_replaced_gives_way_to_the_next_at_once_and_its_end_is_no_death(manager):
    for _ in range(MAX_DEATHS + 2):
        old = manager.workers.get(7)
        manager.call("echo", say="x")
        assert manager.workers.replace(7) is old and manager.workers.get(7).pid != old.pid
        manager.until(lambda old=old: not old.alive)
    assert manager.exits == [7] * (MAX_DEATHS + 2)
    with pytest.raises(OSError, match="has no worker"):
        manager.workers.replace(8)


def test_a_worker_that_does_not_hand_over_is_killed(manager, monkeypatch):
    monkeypatch.setattr("xenvbd.workers.HAND_OVER_SECONDS", 0.05)
    os.kill(manager.started(), signal.SIGSTOP)
    old = manager.workers.replace(7)
    manager.until(lambda: not old.alive)


# The spare

def test_there_is_no_spare_before_there_is_a_worker(thrifty):
    for _ in range(5):
        thrifty.loop.run_once(0.01)
    assert thrifty.workers._spare is None


def test_the_next_worker_of_any_domain_is_the_spare(thrifty):
    pid = thrifty.started()
    first = spare(thrifty)
    os.kill(pid, signal.SIGKILL)
    thrifty.until(lambda: thrifty.exits)
    assert thrifty.started() == first
    second = spare(thrifty)
    assert thrifty.workers.get(8).pid == second != first


def test_a_spare_that_has_died_costs_only_time(thrifty):
    thrifty.started()
    spare(thrifty)
    victim = thrifty.workers._spare
    victim.child.kill()
    os.waitid(os.P_PID, victim.child.pid, os.WEXITED | os.WNOWAIT)
    assert thrifty.workers.get(8).pid != victim.child.pid
    assert victim.child.returncode == -signal.SIGKILL


def test_the_spare_ends_with_its_manager(thrifty):
    os.kill(thrifty.started(), signal.SIGKILL)
    pid = spare(thrifty)
    thrifty.until(lambda: thrifty.exits)
    thrifty.workers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_reply_causes_is_no_fault_of_the_worker(manager):
    """Its callback met a full disk, say: the worker is not killed for that."""
    pid = manager.started()

    def fails(result):
        raise OSError(errno.EIO, "Input/output error")

    manager.workers.get(7).call("echo", fails, say="hello")
    manager.until(lambda: manager.loop.failures)
    assert manager.call("echo", say="again")["said"] == "again" and manager.workers.get(7).pid == pid
    manager.loop.failures = 0


@pytest.mark.parametrize("failing", ["pidfd_open", "read"])
def test_a_worker_that_cannot_be_watched_is_ended(manager, monkeypatch, failing):
    def refuse(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "pidfd_open") if failing == "pidfd_open" else (manager.loop, "read")), refuse)
        with pytest.raises(OSError, match="Too many"):
            manager.workers.get(7)
    assert len(os.listdir("/proc/self/fd")) == before and not manager.workers.running
    assert manager.call("echo", say="hello")["said"] == "hello"
