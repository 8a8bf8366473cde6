"""Rings that were kept: what a process has when it may make no other, and that they are used again and again."""
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from xenvbd.disk import rings

pytestmark = pytest.mark.skipif(bool(rings.unavailable()), reason="io_uring is not available on this host")

PROLOGUE = """
import errno, json, os, sys, threading
from xenvbd import target
from xenvbd.disk import opener, rings
from xenvbd.disk.probe import Session
path = sys.argv[1]

def opened():
    return opener.open(target.parse(path), engine="uring", direct=False)

def use(session, number):
    session.write(number * 4096, bytes([number]) * 4096)
    session.flush()
    assert session.read(number * 4096, 4096) == bytes([number]) * 4096

kept = rings.keep()
"""


@pytest.fixture
def process(tmp_path: Path):
    """process(BODY): what a process with kept rings calls `answer`."""
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))

    def run(body: str):
        program = f"{PROLOGUE}\n{textwrap.dedent(body)}\nprint(json.dumps(answer))"
        done = subprocess.run([sys.executable, "-c", program, str(image)], capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_there_are_so_many_and_fewer_for_large_rings(process) -> None:
    assert process("answer = [kept, rings.kept(), rings.unavailable(), rings.left(33), rings.left(513)]") \
        == [20, True, 0, 20, 8]


def test_a_thread_uses_its_ring_again_for_every_disk_it_has(process) -> None:
    """Also for larger queues, which take a ring of the other size: two for this thread, and no more."""
    assert process("""
        disk = opened()
        for number in range(60):
            with Session(disk, depth=(33, 513)[number % 2], slot_bytes=4096) as session:
                use(session, number)
        answer = [rings.left(33), rings.kinds_of_thread()]""") == [20, [0, 1]]


def test_polls_and_registered_memory_of_the_disk_before_are_gone(process) -> None:
    assert process("""
        event = os.eventfd(0)
        for number in range(5):
            disk = opened()
            with Session(disk) as session:
                session.watch(event, number)
                use(session, number)
                assert session.sleep(0.001) == set()
                os.eventfd_write(event, 1)
                assert session.sleep(5) == {number}
                os.eventfd_read(event)
            disk.close()
            assert not [fd for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}") == path]
        # The kernel has let go of the image too: its lock can be had.
        from xenvbd import disk
        disk.open_image(path, read_only=False).close()
        answer = rings.left(33)""") == 20


def test_where_none_is_left_that_is_said_and_nothing_is_made(process) -> None:
    assert process("""
        disk, sessions, errors, release = opened(), [], [], threading.Event()
        def serve(number):
            try:
                with Session(disk, depth=33, slot_bytes=4096) as session:
                    use(session, number)
                    sessions.append(number)
                    release.wait()
            except OSError as exc:
                errors.append(exc.errno)
        threads = [threading.Thread(target=serve, args=(number,)) for number in range(23)]
        for thread in threads: thread.start()
        while len(sessions) + len(errors) < 23: pass
        answer = [len(sessions), errors == [errno.EMFILE] * 3, rings.left(33), rings.unavailable() == errno.EMFILE]
        release.set()""") == [20, True, 0, True]


HOARD = """
    from xenvbd.dataplane.iothread import IoThread
    import time
    disk = opened()

    def queue(entries, lingers=False):
        go, closed = threading.Event(), threading.Event()
        def body(report):
            try:
                session = Session(disk, depth=entries, slot_bytes=4096)
            except OSError as exc:
                report(-exc.errno)
                return
            report(0)
            go.wait()
            session.close()
            closed.set()
            if lingers: threading.Event().wait()        # the thread unmaps what it kept of the guest
        return IoThread(body, rings.kind_of(entries)), go, closed

    def one_more():
        # What is left, and what becomes of one that asks for more; the threads are not waited for.
        answer = [rings.left(513)]
        try:
            queue(513)
        except OSError as exc:
            answer.append(exc.errno)
        print(json.dumps(answer)); sys.stdout.flush(); os._exit(0)
    """


def test_a_thread_with_a_large_ring_uses_that_and_takes_no_small_one_too(process) -> None:
    """What is left is what a queue can have: a disk for which there is too little is served by threads."""
    assert process(HOARD + """
    threads = [queue(513) for _ in range(8)]
    for thread, go, closed in threads: go.set()
    for thread, go, closed in threads: thread.join()
    threads = [queue(33) for _ in range(8)]
    one_more()""") == [0, 24]


def test_a_ring_is_left_only_when_its_thread_waits_for_a_queue(process) -> None:
    """The thread still unmaps what it kept of the guest, and no other can have it."""
    assert process(HOARD + """
    threads = [queue(513, lingers=True) for _ in range(8)]
    for thread, go, closed in threads: go.set()
    for thread, go, closed in threads: closed.wait()
    one_more()""") == [0, 24]
