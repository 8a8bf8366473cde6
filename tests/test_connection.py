"""A device whose worker dies, hands over, or failed to flush: what the manager does about it.  Kills: tests/crash."""
import errno
import os
import struct

import pytest

from tests.support.manager import bench
from tests.test_device import CLOSED, CONNECTED, INITWAIT, connected
from xenvbd.config import DiskOptions
from xenvbd.disk.claim import Claim
from xenvbd.disk.locks import lock_image
from xenvbd.errors import ClaimError, Error, HypervisorError, ProtocolError, TargetError
from xenvbd.journal import Identity, Journal
from xenvbd.record import Record
from xenvbd.replacement import refuse_what_would_be_lost
from xenvbd.show import show
from xenvbd.stats import Snapshot
from xenvbd.workers import WorkerGone

FAILED, REQ_CONS, SLOTS = 168, 172, 4096    # where a journal says that a flush failed, and what was consumed


@pytest.fixture
def b():
    with bench() as made:
        yield made


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    return path


def serving(b, image):
    """A device with a running plane and an image."""
    return connected(b, b.found(params=str(image)))


def begun(b, device):
    """Journals as a worker has made them."""
    fd = os.open(b.runtime.journal(device.key, 0), os.O_RDWR)
    Journal.create(fd, Identity(7, 51712, 0, 3, 0, (8,)), 32)
    return fd


def test_a_dead_worker_is_followed_by_another_and_nothing_is_written(b, image, monkeypatch):
    device = serving(b, image)
    before, writes = device.view, []
    monkeypatch.setattr(device.areas, "_guarded", writes.append)
    device.worker_lost(b.worker)
    with pytest.raises(Error, match="the next opens its image"):
        device.resume(print)
    b.until(lambda: device.connected)
    assert device.view == before and b.worker.params["adopt"] is True and writes == []


def test_the_next_worker_waits_for_the_lock_of_the_image_and_says_so(b, image, caplog):
    device = serving(b, image)
    with open(image, "r+b") as file:
        lock_image(file.fileno(), str(image), exclusive=True, fence="7/51712")
        device.worker_lost(b.worker)
        with caplog.at_level("WARNING"):
            b.until(lambda: "waiting for its image for " in caplog.text)
        assert b.worker.calls == ["connect"] and "waits for its image" in device.adopting
    b.until(lambda: device.connected)
    assert b.worker.calls == ["connect", "connect"]


def test_what_is_told_of_a_take_over_follows_a_rename(b, image, caplog):
    device = serving(b, image)
    with open(image, "r+b") as file, caplog.at_level("WARNING"):
        lock_image(file.fileno(), str(image), exclusive=True, fence="7/51712")
        device.worker_lost(b.worker)
        b.host.name_of = lambda domid, handle: "renamed"
        b.until(lambda: "renamed:xvda: waiting for its image for " in caplog.text)
    b.until(lambda: device.connected)


def test_a_disk_that_waits_for_its_lock_can_be_detached(b, image):
    device = serving(b, image)
    with open(image, "r+b") as file:
        lock_image(file.fileno(), str(image), exclusive=True, fence="7/51712")
        device.worker_lost(b.worker)
        b.settle()
        device.unplug(force=True)
        b.until(lambda: b.destroyed)
    b.settle()
    assert b.worker.calls == ["connect"]


def test_workers_may_die_one_after_the_other(b, image):
    device = serving(b, image)
    b.worker.hold.add("connect")
    for turn in range(1, 5):
        device.worker_lost(b.worker)
        b.until(lambda turn=turn: len(b.worker.held) == turn)
    b.worker.held[-1]()
    b.until(lambda: device.connected)


def test_a_worker_that_dies_while_it_connects_is_followed_and_connected_is_written_then(b, image):
    b.worker.hold.add("connect")
    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: b.worker.held)
    device.worker_lost(b.worker)
    b.until(lambda: len(b.worker.held) == 2)
    assert b.node("state") == INITWAIT and b.worker.params["adopt"]
    b.worker.held[1]()
    b.until(lambda: b.node("state") == CONNECTED)


def test_a_worker_whose_connection_is_lost_is_killed_before_another_follows(b, image):
    b.worker.fail["connect"] = WorkerGone(errno.EPIPE, "gone")
    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: b.worker.kills)
    del b.worker.fail["connect"]
    device.worker_lost(b.worker)
    b.until(lambda: b.node("state") == CONNECTED)


def test_what_cannot_be_opened_yet_is_tried_again(b, image, monkeypatch):
    monkeypatch.setattr("xenvbd.adoption.RETRY_SECONDS", 0.02)
    device, opened = serving(b, image), Claim.image
    refused = [TargetError(errno.EMFILE, "too many open files")]
    monkeypatch.setattr(Claim, "image", lambda *args, **options: _raise(refused[0]) if refused else opened(
        *args, **options))
    device.worker_lost(b.worker)
    b.until(lambda: "too many open files" in device.adopting)
    refused.clear()
    b.until(lambda: device.connected)


def _raise(exc):
    raise exc


def test_a_ring_that_its_next_worker_refuses_is_broken(b, image):
    device = serving(b, image)
    b.worker.fail["connect"] = ProtocolError(errno.ESTALE, "the journal is another's")
    device.worker_lost(b.worker)
    b.until(lambda: device.failed)
    assert b.node("state") == CONNECTED and "another's" in b.node("error")
    assert b.runtime.has_journals(device.key, 1), "a version that can read them may go on with them"


@pytest.mark.parametrize("refusal", [
    HypervisorError(errno.ENOMEM, "mapping the ring: Cannot allocate memory"),
    Error(errno.EMFILE, "Too many open files"), TargetError(errno.EAGAIN, "io_uring cannot be had")],
    ids=lambda refusal: errno.errorcode[refusal.errno])
def test_what_the_next_worker_has_no_room_for_is_tried_again(b, image, monkeypatch, refusal):
    monkeypatch.setattr("xenvbd.adoption.RETRY_SECONDS", 0.02)
    device = serving(b, image)
    b.worker.fail["connect"] = refusal
    device.worker_lost(b.worker)
    b.until(lambda: refusal.message in device.adopting)
    device.worker_lost(b.worker)                    # which had refused: the next asks another
    del b.worker.fail["connect"]
    b.until(lambda: device.connected)
    assert not device.error and b.runtime.has_journals(device.key, 1)


def test_a_disk_whose_next_worker_has_no_room_can_be_detached(b, image, monkeypatch):
    monkeypatch.setattr("xenvbd.adoption.RETRY_SECONDS", 0.02)
    device = serving(b, image)
    b.worker.fail["connect"] = Error(errno.EMFILE, "Too many open files")
    device.worker_lost(b.worker)
    b.until(lambda: "Too many" in device.adopting)
    device.unplug(force=True)
    b.until(lambda: b.destroyed)
    calls = len(b.worker.calls)
    b.settle()
    assert len(b.worker.calls) == calls


def test_what_cannot_be_kept_for_the_next_manager_at_the_end_of_a_connection_is_kept_later(b, image, monkeypatch):
    monkeypatch.setattr("xenvbd.device.RETRY_SECONDS", 0.02)
    device = serving(b, image)
    save, full = b.runtime.save, [True]

    def refusing(key, record):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(key, record)

    monkeypatch.setattr(b.runtime, "save", refusing)
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    assert [fields["agreement"] is None for _, fields in b.runtime.records()] == [False]
    full.clear()
    full.append(False)
    b.until(lambda: [fields["agreement"] is None for _, fields in b.runtime.records()] == [True])
    assert not device.failed


def test_a_record_that_cannot_be_written_refuses_the_connection_and_leaks_nothing(b, image, monkeypatch):
    device = b.found(params=str(image))
    device.realize()
    b.until(lambda: b.node("state") == INITWAIT)

    def full(key, record):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(b.runtime, "save", full)
    b.guest.connect()
    b.until(lambda: device.failed)
    assert "No space left" in b.node("error")       # and bench() looks for descriptors


def test_counters_that_cannot_be_read_do_not_keep_a_disk_from_being_disconnected(b, image, monkeypatch, caplog):
    device = serving(b, image)

    def broken(cls, paths):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("xenvbd.connection.stats.Snapshot.of_files", classmethod(broken))
        b.guest.state(6)
        b.until(lambda: b.node("state") == CLOSED)
    assert "is not counted" in caplog.text and device.counters() == Snapshot.zero()


def test_a_journal_that_cannot_be_read_stops_nothing(b, image, monkeypatch, caplog):
    b.host.options = lambda *names: DiskOptions(stall_alarm=0.05)

    def broken(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("xenvbd.connection.journal.unanswered", broken)
    monkeypatch.setattr("xenvbd.connection.journal.is_failed", broken)
    device = serving(b, image)
    b.until(lambda: "whether it hangs cannot be told" in caplog.text)
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    assert not device.flush_failed and "whether a flush of it failed cannot be told" in caplog.text


def test_an_image_that_shrank_meanwhile_is_not_served_until_it_is_as_long_again(b, image, monkeypatch):
    monkeypatch.setattr("xenvbd.adoption.RETRY_SECONDS", 0.02)
    device = serving(b, image)
    os.truncate(image, 512)
    device.worker_lost(b.worker)
    b.until(lambda: "has shrunk: it has 512 bytes" in device.adopting)
    assert not device.failed and b.worker.calls == ["connect"]
    os.truncate(image, 1 << 20)
    b.until(lambda: device.connected)


def test_it_is_taken_over_while_the_store_is_away(b, image):
    device = serving(b, image)
    b.sim.drop_connections(0)
    b.until(lambda: not b.store.connected)
    device.worker_lost(b.worker)
    b.until(lambda: device.connected)
    b.store.reconnect()
    b.toolstack.reconnect()


def test_a_failed_flush_is_remembered_when_the_frontend_comes_back(b, image):
    device = serving(b, image)
    fd = begun(b, device)
    os.pwrite(fd, struct.pack("=I", 1), FAILED)
    os.close(fd)
    device.worker_event("flush-failed", "queue 0")
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    b.guest.state(1)
    b.until(lambda: b.node("state") == INITWAIT)
    b.guest.connect()
    b.until(lambda: device.failed)
    assert "a flush of" in b.node("error") and b.node("state") == INITWAIT
    [(_, fields)] = b.runtime.records()
    assert fields["flush_failed"] is True


def test_a_failed_flush_is_found_in_the_journal_when_nobody_told_of_it(b, image):
    device = serving(b, image)
    fd = begun(b, device)
    os.pwrite(fd, struct.pack("=I", 1), FAILED)
    os.close(fd)
    b.guest.state(6)
    b.until(lambda: b.node("state") == CLOSED)
    assert device.flush_failed


def test_a_later_manager_has_a_ring_taken_over_whose_worker_died_too(b, image):
    device = serving(b, image)
    device.close()
    b.worker.epoch += 1
    later = b.device()
    [(_, fields)] = b.runtime.records()
    later.adopt(Record.from_json(fields), serving=False)
    b.until(lambda: later.connected)
    assert b.worker.params["adopt"] is True and b.node("state") == CONNECTED


def test_a_later_manager_connects_a_ring_that_the_frontend_made_meanwhile(b, image):
    device = serving(b, image)
    device.close()
    b.guest.connect(ring_ref=77)
    later = b.device()
    [(_, fields)] = b.runtime.records()
    later.adopt(Record.from_json(fields), serving=False)
    b.until(lambda: later.connected)
    assert "adopt" not in b.worker.params and later.agreement.queues[0].ring_refs == (77,)


def test_a_request_without_an_answer_is_told_of_until_it_has_one(b, image, caplog):
    b.host.options = lambda *names: DiskOptions(stall_alarm=0.05)
    device = serving(b, image)
    fd = begun(b, device)
    os.pwrite(fd, struct.pack("=II", 1, 0), SLOTS)
    os.pwrite(fd, struct.pack("=I", 1), REQ_CONS)
    b.until(lambda: show(device)["note"].startswith("hangs: no answer for "))
    assert show(device)["stalled"] == 1 and "web1:xvda: its storage hangs: " in caplog.text
    with pytest.raises(ClaimError, match="before its storage has answered"):
        refuse_what_would_be_lost(device)
    os.pwrite(fd, struct.pack("=I", 1), REQ_CONS + 4)
    b.until(lambda: show(device)["note"] == "")
    assert "all is answered again" in caplog.text
    os.close(fd)


def test_what_a_disk_holds_and_says_so_is_no_stall(b, image, monkeypatch):
    b.host.options = lambda *names: DiskOptions(stall_alarm=0.05)
    device = serving(b, image)
    fd = begun(b, device)
    os.pwrite(fd, struct.pack("=II", 1, 0), SLOTS)
    os.pwrite(fd, struct.pack("=I", 1), REQ_CONS)
    zero = Snapshot.zero()
    monkeypatch.setattr(type(device), "counters", lambda self: Snapshot(zero.counters | {"stopped": 1}, zero.ops))
    looked = []
    monkeypatch.setattr(device.stalls, "_unanswered", lambda: looked.append(list(device._unanswered())) or looked[-1])
    b.until(lambda: len(looked) > 20)
    assert not any(looked) and device.stalls.requests == 0
    os.close(fd)
