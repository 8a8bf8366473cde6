"""Hostile cases W: a worker that a guest has taken over, against the manager, which is root.

It can say what it likes over its socket and write what it likes into the files it holds.  The manager is not stopped by
it, not made to grow, and not made to log without end; the worker is killed when it breaks the protocol."""
import array
import errno
import gc
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from xenvbd import journal, stats
from xenvbd.disk.rings import unavailable
from xenvbd.inventory import Inventory
from xenvbd.loop import Loop
from xenvbd.runtime import Runtime
from xenvbd.workers import MAX_TEXT, MESSAGES_A_TURN, Worker, WorkerGone, Workers


class Taken:
    """The manager's end of a worker, and the other end, which the test has taken over."""

    def __init__(self) -> None:
        self.loop = Loop()
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(["sleep", "60"])
        self.worker = Worker(self.loop, 7, self.process.pid, "/nonexistent", ours, self.process)
        self.events, self.exits = [], []
        self.worker.on_event = self.events.append
        self.worker.on_exit = self.exits.append

    def say(self, body: object) -> None:
        self.sock.send(body if isinstance(body, bytes) else json.dumps(body).encode())

    def until(self, condition) -> None:
        for _ in range(2000):
            if condition():
                return
            self.loop.run_once(0.01)
        raise AssertionError("it did not happen")

    def close(self) -> None:
        self.sock.close()
        self.process.kill()
        self.until(lambda: self.exits)
        self.loop.close()


@pytest.fixture
def taken():
    gc.collect()                    # what earlier tests left open would be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    made = Taken()
    yield made
    failures = made.loop.failures
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"
    assert failures == 0, "a callback failed: each is a traceback in the log"


@pytest.mark.parametrize("body", [
    b"{", b"\xff", b"[]", b"1", b"null", b'"x"', b"[" * 60000, b"x" * 65536, b"x" * 70000,
    {"reply": 1, "result": 5}, {"reply": 1, "result": "text"}], ids=lambda body: repr(body)[:30])
def test_W1_what_is_no_message_ends_the_worker_and_nothing_else(taken, body) -> None:
    answers = []
    taken.worker.call("list", answers.append)
    taken.say(body)
    taken.until(lambda: taken.exits)
    assert len(answers) == 1 and isinstance(answers[0], OSError)


@pytest.mark.parametrize("error", [
    {}, {"errno": "x"}, {"errno": [1]}, {"errno": 1e400}, {"errno": 10 ** 30}, {"errno": -5},
    {"class": [], "message": 5},
    {"message": "\x1b]0;title\x07\n" * 5000, "disk": 9, "path": {}}], ids=lambda body: repr(body)[:30])
def test_W1_an_error_of_any_shape_is_an_error_that_can_be_shown(taken, error) -> None:
    answers = []
    taken.worker.call("list", answers.append)
    taken.say({"reply": 1, "error": error})
    taken.until(lambda: answers)
    assert str(answers[0]).isprintable() and len(str(answers[0])) < 5 * MAX_TEXT and 0 < answers[0].errno < 4096


@pytest.mark.parametrize("body", [
    {"reply": 99}, {"reply": "1"}, {"reply": None}, {"reply": []}, {"reply": {}}, {"reply": 2.5}, {},
    {"event": []}, {"event": {}, "disk": []}, {"event": "x", "disk": 7},
    {"event": "stopped", "disk": "vbd-1-51712", "detail": "\x1b[31m" * 1000}], ids=lambda body: repr(body)[:30])
def test_W2_messages_about_nothing_are_ignored(taken, body) -> None:
    for _ in range(10):
        taken.say(body)
    answers = []
    taken.worker.call("list", answers.append)
    taken.say({"reply": 1, "result": {"disks": {}}})
    taken.until(lambda: answers)
    assert answers == [{"disks": {}}]
    for event in taken.events:
        assert all(str(value).isprintable() and len(str(value)) < 5 * MAX_TEXT for value in event.values())


def test_W3_messages_without_end_leave_the_others_their_turn(taken) -> None:
    taken.sock.setblocking(False)
    sent = 0
    try:
        while True:
            taken.say({"event": "io-error", "disk": "vbd-7-51712"})
            sent += 1
    except BlockingIOError:
        assert sent > 2 * MESSAGES_A_TURN, "enough for more than one turn"
    turns = []
    while len(taken.events) < sent:
        before = len(taken.events)
        taken.loop.run_once(1)
        turns.append(len(taken.events) - before)
    assert max(turns) <= MESSAGES_A_TURN


def test_W4_descriptors_that_nobody_asked_for_are_closed(taken) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fds = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(16)])
    for _ in range(20):
        taken.sock.sendmsg([b'{"event":"x"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    for fd in fds:
        os.close(fd)
    taken.until(lambda: len(taken.events) == 20)
    assert len(os.listdir("/proc/self/fd")) == before


def test_W5_counters_cut_short_or_scribbled_on_are_numbers_all_the_same(tmp_path) -> None:
    path = tmp_path / "counters"
    for content in b"", b"x", struct.pack("=Q", stats.MAGIC), os.urandom(stats.SIZE), b"\xff" * (stats.SIZE + 9), \
            struct.pack("=Q", stats.MAGIC) + b"\xff" * (stats.SIZE - 8):
        path.write_bytes(content)
        shown = (stats.Snapshot.zero() + stats.Snapshot.of_files([str(path)])).to_json()
        assert json.loads(json.dumps(shown)) == shown


def test_W6_a_journal_cut_short_or_scribbled_on_is_no_news_to_the_manager(tmp_path) -> None:
    path = tmp_path / "journal"
    for content in b"", b"x" * 100, os.urandom(4096), b"XVBDJRNL" + b"\xff" * 9000:
        path.write_bytes(content)
        assert journal.is_failed(str(path)) in (False, True)
    assert not journal.is_failed(str(tmp_path / "none"))


def test_W7_a_worker_that_accepts_nobody_does_not_keep_managers_from_starting(tmp_path, caplog) -> None:
    """Each manager that comes leaves a connection in the backlog of its socket, which is full at last."""
    runtime = Runtime(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(runtime.worker(7))
        listener.listen(0)
        for _ in range(8):
            loop = Loop()
            workers = Workers(loop, runtime, "sim:none", 0)
            workers.find_all()
            workers.close()
            loop.close()
        assert os.path.exists(runtime.worker(7)), "it lives, so it is not forgotten"
    assert "takes no connections" in caplog.text


@pytest.mark.parametrize("said", [
    dict.fromkeys(["qdisk-7-51712", "x", "", "a-b-c", "qdisk-9-1-2", "-9-", "../-9-1", "qdisk-99999999-1"], "running"),
    [], [["qdisk-9-1"]], 5, None, "qdisk-9-51712"], ids=lambda said: repr(said)[:30])
def test_W8_a_worker_speaks_for_the_disks_of_its_own_guest_alone(said) -> None:
    """What it says of others does not keep a later manager from having those taken over, nor from being ready."""
    class Liar:
        domid, version = 9, ""

        def call(self, verb, done):
            loop.soon(lambda: done({"disks": said, "version": 1}))

    loop, heard = Loop(), []
    Inventory([Liar()], lambda serving, silent: heard.append((serving, silent)), loop)
    loop.run_once(0.1)
    assert heard == [(set(), set())] and loop.failures == 0
    loop.close()


def test_W11_one_that_hangs_up_is_told_again_to_let_go_and_killed_if_it_stays_away(taken) -> None:
    """It was taken for dead, and kept the ring and the image's lock."""
    answers = []
    taken.sock.close()
    taken.worker.call("disconnect", answers.append, disk="qdisk-7-51712")
    taken.until(lambda: answers)
    assert answers[0].errno not in (errno.EPIPE, errno.ENOENT), "a device takes these for the end of its plane"
    taken.loop.run_once(0)
    taken.worker.call("disconnect", answers.append, disk="qdisk-7-51712")
    taken.until(lambda: len(answers) == 2)
    assert isinstance(answers[1], WorkerGone), "and this, which has it killed"


def succeeds(program: str) -> None:
    """In a process of its own, which can be locked down."""
    top = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          check=False, cwd=top, env=os.environ | {"PYTHONPATH": str(top)})
    assert done.returncode == 0, done.stderr


TAKEN_OVER = """
import ctypes
from tests.disk.test_restrict import FSYNC, NAMES, Ring, attempt, function, uring
from xenvbd import sandbox
from xenvbd.disk import rings

def kept(name, *kinds):
    capsule = rings.__pyx_capi__[name]
    get = ctypes.pythonapi.PyCapsule_GetPointer
    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(get(capsule, ctypes.pythonapi.PyCapsule_GetName(capsule)))

sandbox.lock_down([], last=rings.keep)
assert uring.io_uring_queue_init_params(8, ctypes.byref(Ring()), ctypes.create_string_buffer(120)) == -1, "a new ring"
ring = Ring()
assert kept("ring_take", ctypes.c_void_p, ctypes.c_uint)(ctypes.addressof(ring), 8) == 1
assert function("enable_ring", ctypes.c_void_p)(ctypes.addressof(ring)) == 0
for opcode, name in NAMES.items():
    for flags in 0, 1:
        assert attempt(ring, opcode, flags) == -13, name
assert attempt(ring, FSYNC, 0, 3) == -13, "a file that is not registered"
"""


@pytest.mark.skipif(bool(unavailable()), reason="io_uring is not available on this host")
def test_W10_no_ring_that_it_has_or_makes_opens_a_socket_or_a_file() -> None:
    """io_uring's operations are no system calls that seccomp would see: a ring that nobody restricted connects."""
    succeeds(TAKEN_OVER)


REGISTERS = """
import ctypes, errno, mmap, os, struct
from xenvbd import sandbox
from xenvbd.disk import rings

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
BUFFERS2, BUFFERS_UPDATE, PBUF_RING, MIB = 15, 16, 22, 1 << 20

def register(fd, what, data, count):
    buffer = ctypes.create_string_buffer(data, len(data))
    rc = libc.syscall(427, fd, what, ctypes.byref(buffer), count)
    return -ctypes.get_errno() if rc < 0 else rc

sandbox.PINNED = 6 * MIB            # what may be pinned without being root
sandbox.lock_down([], last=rings.keep)
ring = next(fd for fd in range(3, 99) if register(fd, BUFFERS2, struct.pack("=IIQQQ", 99, 1, 0, 0, 0), 32) == 0)
"""


@pytest.mark.skipif(bool(unavailable()), reason="io_uring is not available on this host")
def test_W12_what_it_pins_and_unmaps_is_counted() -> None:
    """Pinned memory that is mapped nowhere counts neither for RLIMIT_DATA nor for whom a shortage of memory kills."""
    succeeds(REGISTERS + """
pinned = 0
for number in range(99):
    address = libc.mmap(None, MIB, 3, 0x22, -1, 0)
    vector = ctypes.create_string_buffer(struct.pack("=QQ", address, MIB), 16)
    rc = register(ring, BUFFERS_UPDATE, struct.pack("=IIQQII", number, 0, ctypes.addressof(vector), 0, 1, 0), 32)
    libc.munmap(address, MIB)
    if rc != 1:
        break
    pinned += MIB
assert rc == -errno.ENOMEM and pinned <= 6 * MIB, (rc, pinned)
""")


@pytest.mark.skipif(bool(unavailable()), reason="io_uring is not available on this host")
def test_W13_a_ring_that_is_not_enabled_takes_no_memory_of_the_kernel_s() -> None:
    """Its restrictions hold only once it is enabled: until then it could be asked for buffers, half a megabyte each."""
    succeeds(REGISTERS + """
assert register(ring, PBUF_RING, struct.pack("=QIHHQQQ", 0, 32768, 1, 1, 0, 0, 0), 1) == -errno.EPERM
""")


@pytest.mark.skipif(bool(unavailable()), reason="io_uring is not available on this host")
def test_what_may_be_registered_is_the_same_list_for_the_filter_and_for_the_rings() -> None:
    succeeds(REGISTERS + """
def allowed(fd, what):
    refused = libc.syscall(427, fd, what, 0, 0) < 0 and ctypes.get_errno() in (errno.EPERM, errno.EACCES)
    return not refused

assert libc.syscall(427, ring, 12, 0, 0) == 0, "enabled"
by_filter = [what for what in range(64) if allowed(-1, what)]
by_ring = [what for what in range(64) if allowed(ring, what)]
assert by_filter == sorted([*by_ring, 12]) and len(by_ring) == 10, (by_filter, by_ring)
""")
