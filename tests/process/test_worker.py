"""The worker process, with a manager's end in the test and a guest driven by hand: no xenstore, no files opened."""
import contextlib
import errno
import os
import resource
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.guest import OKAY, READ, WRITE, Guest
from tests.support.host import wait
from xenvbd import disk, memory, stats, target, vdev
from xenvbd.features import Agreement, QueueAgreement
from xenvbd.hv import evtchn, sim
from xenvbd.loop import Loop
from xenvbd.properties import MAX_ORDER, MAX_QUEUES, DiskFacts, Properties
from xenvbd.record import Record
from xenvbd.runtime import Runtime
from xenvbd.stats import Snapshot
from xenvbd.workers import Workers

KEY = "qdisk-1-51712"
SETTINGS = {"discard": True, "barrier": False, "max_indirect": 256, "read_only": False, "logical_block_size": 512,
            "max_buffer_bytes": 16 << 20}
OPEN = {"read_only": False, "direct": None, "engine": "auto", "logical_block_size": 512, "discard": True}


class Manager:
    """What a manager has of a worker: its end of the socket and the runtime directory."""

    def __init__(self, machine, runtime):
        self.loop, self.machine, self.runtime = Loop(), machine, runtime
        self.workers = Workers(self.loop, runtime, f"sim:{machine.dir}", 0, spare=True)
        self.events, self.exits = [], []
        self.workers.on_event = lambda domid, event: self.events.append(event)
        self.workers.on_exit = self.exits.append

    def until(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            self.loop.run_once(0.05)

    def call(self, verb, fds=(), **params):
        results = []
        self.workers.get(1).call(verb, results.append, fds, **params)
        self.until(lambda: results)
        return results[0]

    def adopt(self, guest, target, image):
        return self.connect(guest, target, image=image, changes={"adopt": True},
                            files=self.runtime.open_queues(KEY, 1, stats.SIZE))

    def connect(self, guest, target="mem:1M", key=KEY, image=(), changes=None, files=None, bound_to=1):
        agreement = Agreement(1, 51712, guest.abi, (QueueAgreement(guest.ring_pages.refs, guest.port),))
        files = files or self.runtime.new_queues(key, 1, stats.SIZE)
        message = {"disk": key, "name": "web1:xvda", "target": target, "image": bool(image), "open": OPEN,
                   "settings": SETTINGS, "agreement": agreement.to_json()} | (changes or {})
        return self.call("connect", [*image, *files, *evtchn.offer(self.machine.join(0), bound_to, 1)], **message)

    def counters(self, key=KEY):
        return Snapshot.of_files([self.runtime.stats(key, 0)])

    def close(self):
        for worker in list(self.workers.by_domid.values()):
            os.kill(worker.pid, signal.SIGKILL)
        self.until(lambda: not self.workers.running)
        self.workers.close()
        self.loop.close()


@pytest.fixture
def machine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("m")
    with sim.Machine.create(directory / "machine") as machine:
        machine.add_domain(1)
        yield machine


def descriptors(pid):
    """What a process has open, but for the machine's files, which stay as long as anybody needs it."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):        # that of the directory itself
            found.append(os.readlink(fd))
    return sorted(name for name in found if "/machine" not in name)


@pytest.fixture
def manager(machine, tmp_path):
    before = len(descriptors("self"))
    manager = Manager(machine, Runtime(tmp_path))
    yield manager
    manager.close()
    assert len(descriptors("self")) <= before, "a descriptor was left open"


@pytest.fixture
def guest(machine):
    guest = Guest(machine, 1)
    yield guest
    guest.close()


def transfer(guest, operation=WRITE, sectors=(0,)):
    """Requests of one page each, at these sectors; their statuses."""
    pages = guest.pages(1)
    return guest.do(*(guest.request(operation, sector, pages.segments(8)) for sector in sectors))


def test_it_says_who_it_is_and_ps_shows_it(manager):
    answer = manager.call("ping")
    pid = manager.workers.get(1).pid
    assert answer["pid"] == pid and answer["domid"] == 1
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"xenvbd-worker 1"


def test_it_serves_what_it_is_handed_until_it_is_told_to_stop(manager, guest):
    assert manager.connect(guest)["engine"] == "memory"
    assert transfer(guest, WRITE, range(0, 80, 8)) == [OKAY] * 10 and transfer(guest, READ) == [OKAY]
    assert manager.counters().ops["write"].ops == 10
    assert manager.call("list")["disks"] == {KEY: "running"}
    assert manager.call("disconnect", disk=KEY) == {}
    assert manager.call("list")["disks"] == {}


@pytest.mark.parametrize("direct, kept", [(True, False), (False, True)])
def test_it_says_whether_the_guests_pages_stay_mapped(manager, guest, tmp_path, direct, kept):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    image = disk.open_image(str(path), read_only=False, direct=direct)
    agreement = Agreement(1, 51712, guest.abi, (QueueAgreement(guest.ring_pages.refs, guest.port),), persistent=True)
    changes = {"open": OPEN | {"direct": direct}, "agreement": agreement.to_json()}
    answer = manager.connect(guest, str(path), image=[image.fd], changes=changes)
    assert answer["persistent"] is kept
    listed = manager.call("list")
    assert {name: listed[name][KEY] for name in answer} == answer


def test_an_image_is_unlocked_when_disconnect_is_answered(manager, guest, tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    image = disk.open_image(str(path), read_only=False)
    assert manager.connect(guest, str(path), image=[image.fd])["engine"] in ("uring", "threads")
    assert transfer(guest) == [OKAY]
    with pytest.raises(OSError, match="locked"):
        disk.open_image(str(path), read_only=False)
    manager.call("disconnect", disk=KEY, abandon=False)
    disk.open_image(str(path), read_only=False).close()


@pytest.mark.parametrize("changes, number", [
    ({"target": "mem:x"}, errno.EINVAL), ({"image": True}, errno.EPROTO), ({"settings": {"discard": 1, "x": 2}}, None),
    ({"agreement": {}}, None), ({"open": OPEN | {"engine": "uring"}}, errno.EINVAL)],
    ids=["target", "descriptors", "settings", "agreement", "engine"])
def test_a_wrong_order_is_refused_leaves_nothing_and_the_right_one_works(manager, guest, changes, number):
    manager.call("ping")
    pid = manager.workers.get(1).pid
    before = descriptors(pid)
    result = manager.connect(guest, changes=changes)
    assert isinstance(result, OSError) and number in (None, result.errno)
    # Not at once: a worker that logs a traceback opens the source for it.
    wait(lambda: descriptors(pid) == before, "the worker's descriptors are those of before")
    assert manager.connect(guest) == {"engine": "memory", "persistent": False} and transfer(guest) == [OKAY]


def test_a_ring_that_cannot_be_mapped_is_refused_and_the_image_is_free_again(manager, guest, machine, tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    machine.inject("map", after=0, status=-errno.EINVAL, count=1)
    image = disk.open_image(str(path), read_only=False)
    assert isinstance(manager.connect(guest, str(path), image=[image.fd]), OSError)
    disk.open_image(str(path), read_only=False).close()
    assert machine.mappings(1) == []


def test_event_channels_are_bound_through_the_handle_that_was_given_and_no_other(manager, guest):
    refused = manager.connect(guest, bound_to=2)
    assert refused.errno == errno.EACCES and "event channel" in str(refused)
    assert manager.connect(guest)["engine"] == "memory" and transfer(guest) == [OKAY]


def test_a_disk_is_connected_once(manager, guest):
    manager.connect(guest)
    assert manager.connect(guest).errno == errno.EBUSY
    assert transfer(guest) == [OKAY]


@pytest.mark.parametrize("verb, number", [("disconnect", errno.ENOENT), ("resume", errno.ENOENT),
                                          ("frobnicate", errno.EOPNOTSUPP)])
def test_what_cannot_be_done_is_an_error(manager, verb, number):
    assert manager.call(verb, disk=KEY).errno == number


def test_a_broken_ring_is_told(manager, guest):
    manager.connect(guest)
    with memoryview(guest.ring_pages) as ring:
        ring[0:4] = (1 << 20).to_bytes(4, "little")         # req_prod
    guest.evtchn.notify(guest.port)
    manager.until(lambda: manager.events)
    assert manager.events[0]["event"] == "quarantined" and manager.events[0]["disk"] == KEY


def test_it_outlives_its_manager_and_a_later_one_goes_on(manager, guest, machine):
    manager.connect(guest)
    pid = manager.workers.get(1).pid
    manager.workers.close()
    assert transfer(guest, WRITE, range(0, 80, 8)) == [OKAY] * 10
    later = Manager(machine, manager.runtime)
    assert [worker.pid for worker in later.workers.find_all()] == [pid]
    assert later.call("list")["disks"] == {KEY: "running"}
    assert later.call("disconnect", disk=KEY) == {}
    later.workers.dismiss(1)
    later.until(lambda: later.exits)
    later.close()


def test_it_ends_by_itself_without_a_disk_and_a_manager(manager, machine):
    manager.workers.idle_seconds = 0.2
    pid = manager.call("ping")["pid"]
    manager.workers.close()
    assert os.waitpid(pid, 0) == (pid, 0)
    later = Manager(machine, manager.runtime)
    assert later.workers.find_all() == []
    assert not os.path.exists(manager.runtime.worker(1)), "it may remove nothing itself; the next manager does"
    later.close()


def test_it_does_not_end_while_it_serves(manager, guest):
    manager.connect(guest)
    assert manager.call("stop").errno == errno.EBUSY
    assert transfer(guest) == [OKAY]


def test_a_manager_of_another_version_is_told_what_to_do_and_can_still_disconnect(manager, guest):
    manager.connect(guest)
    refused = manager.connect(guest, key="qdisk-1-51728", changes={"protocol": 99})
    assert refused.errno == errno.EPROTO and "xenvbd restart --worker DISK" in str(refused)
    assert manager.call("list", protocol=99)["disks"] == {KEY: "running"}
    assert manager.call("disconnect", disk=KEY, protocol=99) == {}


def test_sigterm_hands_over_what_cannot_be_done_now(manager, guest, machine, tmp_path):
    """The next worker goes on with it: nothing was answered meanwhile."""
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    manager.connect(guest, str(path), image=[disk.open_image(str(path), read_only=False).fd])
    assert transfer(guest, WRITE, range(0, 80, 8)) == [OKAY] * 10
    os.kill(manager.workers.get(1).pid, signal.SIGTERM)
    manager.until(lambda: manager.exits)
    request = guest.request(WRITE, 80, guest.pages(1).segments(8))
    guest.submit(request)
    manager.adopt(guest, str(path), [disk.open_image(str(path), read_only=False).fd])
    assert guest.finish(request) == [OKAY]
    assert manager.counters().ops["write"].ops == 11, "the counters go on"


def test_sigterm_drains_and_ends_it(manager, guest):
    manager.connect(guest)
    transfer(guest)
    os.kill(manager.workers.get(1).pid, signal.SIGTERM)
    manager.until(lambda: manager.exits)


def test_disks_of_a_domain_come_and_go_without_leaving_anything(manager, machine, guest):
    worker = manager.call("ping")["pid"]

    def resources():
        return descriptors(worker), len(os.listdir(f"/proc/{worker}/task"))

    before = resources()
    for number in range(50):
        assert manager.connect(guest, key=f"qdisk-1-{number}") == {"engine": "memory", "persistent": False}
        assert transfer(guest) == [OKAY]
        assert manager.call("disconnect", disk=f"qdisk-1-{number}") == {}
        guest.close()
        guest.__init__(machine, 1)
    wait(lambda: resources() == before, f"{before} again")
    assert machine.mappings(1) == []


def test_a_manager_that_does_not_read_does_not_stop_the_disks(manager, guest):
    """Its events are dropped, its connection stays."""
    manager.connect(guest)
    worker = manager.workers.get(1)
    for _ in range(200):
        worker.call("ping", lambda result: None)
    assert transfer(guest, WRITE, range(0, 80, 8)) == [OKAY] * 10
    manager.until(lambda: not worker._calls)
    assert manager.call("list")["disks"] == {KEY: "running"}


# Memory

def private(pid):
    """Bytes of its own that a process has mapped to write to: what RLIMIT_DATA limits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))


@pytest.mark.skipif(not (memory.limited() and memory.can_raise()), reason="limits cannot be raised, or there are none")
def test_a_worker_cannot_have_more_memory_than_its_disks_need(manager, guest):
    worker = manager.workers.get(1)
    manager.call("ping")
    assert resource.prlimit(worker.pid, resource.RLIMIT_DATA)[0] == memory.BASE
    assert manager.connect(guest, "mem:1G").errno == errno.ENOMEM
    worker.allow(KEY, 2 << 30)
    assert manager.connect(guest, "mem:1G")["engine"] == "memory" and transfer(guest) == [OKAY]
    worker.allow(KEY, 0)
    worker.allow("qdisk-1-51728", 1 << 20)
    assert resource.prlimit(worker.pid, resource.RLIMIT_DATA)[0] == memory.BASE + (2 << 30), "it is not lowered"


@pytest.mark.parametrize("engine", ["auto", "threads"])
def test_the_largest_disk_there_is_has_memory_enough(manager, machine, tmp_path, engine):
    """Every queue of 16 pages and full of requests of 256 segments, its pages kept mapped."""
    guests = [Guest(machine, 1, order=MAX_ORDER, abi="x86_64-abi") for _ in range(MAX_QUEUES)]
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    rings = tuple(QueueAgreement(each.ring_pages.refs, each.port) for each in guests)
    asked = Properties(1, vdev.parse("xvda"), target.parse(str(path)), direct=False)
    record = Record("qdisk", "1", "web1:xvda", True, asked, DiskFacts(1 << 20), engine, SETTINGS["max_buffer_bytes"],
                    Agreement(1, 51712, "x86_64-abi", rings, persistent=True))
    worker = manager.workers.get(1)
    worker.allow(KEY, memory.of_disk(record))
    image = disk.open_image(str(path), read_only=False)
    files = [*manager.runtime.new_queues(KEY, MAX_QUEUES, stats.SIZE),
             *evtchn.offer(machine.join(0), 1, MAX_QUEUES)]
    assert "engine" in manager.call("connect", [image.fd, *files], disk=KEY, image=True,
                                    agreement=record.agreement.to_json(), **record.orders())
    for each in guests:
        segments = each.pages(32).segments() * 8
        each.requests = [each.indirect(WRITE, 0, segments) for _ in range(32)]
        each.submit(*each.requests)
    for each in guests:
        assert each.finish(*each.requests, timeout=60) == [OKAY] * 32
    assert private(worker.pid) < resource.prlimit(worker.pid, resource.RLIMIT_DATA)[0]
    assert manager.call("disconnect", disk=KEY) == {}
    for each in guests:
        each.close()


def test_a_guest_that_connects_again_and_again_is_served_through_io_uring(manager, guest, tmp_path):
    """A locked down worker can make no ring: it has its queues' threads use theirs again."""
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    for number in range(30):
        image = disk.open_image(str(path), read_only=False)
        answer = manager.connect(guest, str(path), image=[image.fd])
        assert answer == {"engine": "uring", "persistent": False}, number
        assert transfer(guest) == [OKAY], number
        if number == 0:
            before = descriptors(manager.workers.get(1).pid)
        assert manager.call("disconnect", disk=KEY) == {}
        guest.close()
        guest.__init__(guest.machine, 1)
    image = disk.open_image(str(path), read_only=False)
    assert manager.connect(guest, str(path), image=[image.fd]) == {"engine": "uring", "persistent": False}
    # Either look may come while what connecting opened for a moment (journal, statistics, channel) is still open.
    wait(lambda: not Counter(descriptors(manager.workers.get(1).pid)) - Counter(before), f"no more than {before}")


def test_more_disks_than_a_worker_has_rings_are_served_by_threads(manager, machine, tmp_path, capfd):
    guests = [Guest(machine, 1) for _ in range(21)]
    engines = []
    manager.workers.get(1).allow("all", 2 << 30)
    for number, each in enumerate(guests):
        path = tmp_path / f"{number}.img"
        path.write_bytes(bytes(1 << 20))
        key, image = f"qdisk-1-{51712 + 16 * number}", disk.open_image(str(path), read_only=False)
        answer = manager.connect(each, str(path), key=key, image=[image.fd])
        assert isinstance(answer, dict), (number, answer)
        engines.append(answer["engine"])
        assert transfer(each) == [OKAY]
    assert engines == ["uring"] * 20 + ["threads"]
    for _ in range(12):                     # a guest that connects again and again
        manager.call("disconnect", disk=key)
        image = disk.open_image(str(path), read_only=False)
        assert manager.connect(each, str(path), key=key, image=[image.fd])["engine"] == "threads"
    log = capfd.readouterr().err
    assert 1 <= log.count("web1:xvda is served by threads: 0 io_urings are left, and it has 1 queues") <= 10
    for each in guests:
        each.close()


# The spare

SPARE_BYTES = 25 << 20


def spare(manager):
    manager.until(lambda: manager.workers._spare)
    pid = manager.workers._spare.child.pid
    wait(lambda: b"spare" in Path(f"/proc/{pid}/cmdline").read_bytes(), "it is loaded")
    return pid


def resident(pid):
    """What a process has for itself and as its share of what others have too, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_a_killed_worker_is_followed_by_the_spare_which_is_small_and_confined(manager, guest):
    manager.connect(guest)
    pid = spare(manager)
    assert resident(pid) < SPARE_BYTES
    os.kill(manager.workers.get(1).pid, signal.SIGKILL)
    manager.until(lambda: manager.exits)
    assert manager.connect(guest)["engine"] == "memory" and manager.workers.get(1).pid == pid
    assert transfer(guest) == [OKAY]
    assert "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"xenvbd-worker 1"


def test_a_spare_ends_when_its_manager_does_not_say_good_bye(manager):
    manager.call("ping")
    pid = spare(manager)
    manager.workers._spare.sock.close()
    assert manager.workers._spare.child.wait(20) == 0
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_without_descriptors_does_not_turn_round_and_round(manager, guest):
    manager.call("ping")
    pid = manager.workers.get(1).pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, hard))
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as other:
        other.connect(manager.runtime.worker(1))
        clock = ~pid << 3 | 2                           # the processor time of the process
        before = time.clock_gettime(clock)
        time.sleep(0.5)
        assert time.clock_gettime(clock) - before < 0.25
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        other.settimeout(20)
        other.send(b'{"call": 1, "verb": "ping"}')
        assert b'"domid":1' in other.recv(4096).replace(b" ", b"")
