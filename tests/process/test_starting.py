"""A disk is started beside the main thread of its worker: what it waits for keeps no other, orders keep their order."""
import errno
import os
import signal

import pytest

from tests.process.test_worker import KEY, OPEN, SETTINGS, guest, machine, manager, transfer
from tests.support.guest import OKAY, Guest
from xenvbd import stats
from xenvbd.features import Agreement, QueueAgreement
from xenvbd.hv import evtchn
from xenvbd.workers import Workers

__all__ = ["guest", "machine", "manager"]


def ask(manager, guest, key, replies, **changes):
    """Order a disk to be connected, and do not wait; replies gets (key, the answer)."""
    agreement = Agreement(1, 51712, guest.abi, (QueueAgreement(guest.ring_pages.refs, guest.port),))
    order = {"disk": key, "name": "web1:xvda", "target": "mem:1M", "image": False, "open": OPEN, "settings": SETTINGS,
             "agreement": agreement.to_json()} | changes
    files = manager.runtime.open_queues if changes.get("adopt") else manager.runtime.new_queues
    manager.workers.get(1).call("connect", lambda result: replies.append((key, result)),
                                [*files(key, 1, stats.SIZE), *evtchn.offer(manager.machine.join(0), 1, 1)], **order)


@pytest.fixture
def other(machine, guest):
    """A second ring of the guest; made first, for a port that is closed may be given to the next who asks."""
    other = Guest(machine, 1)
    yield other
    other.close()


@pytest.fixture
def lost(manager, guest, other):
    """A disk whose worker has died, and whose guest has closed its port; the next worker tries for a while to bind."""
    manager.connect(guest)
    assert transfer(guest) == [OKAY]
    os.kill(manager.workers.get(1).pid, signal.SIGKILL)
    manager.until(lambda: manager.exits)
    guest.evtchn.unbind(guest.port)
    return guest


def test_a_disk_that_waits_for_its_port_keeps_no_other_of_its_guest_waiting(manager, lost, other):
    replies = []
    ask(manager, lost, KEY, replies, adopt=True)
    ask(manager, other, "qdisk-1-51728", replies)
    manager.until(lambda: replies)
    assert [key for key, _ in replies] == ["qdisk-1-51728"] and transfer(other) == [OKAY]
    manager.until(lambda: len(replies) == 2)
    assert replies[1][1].errno == errno.EINVAL


def test_what_is_ordered_while_a_disk_is_being_started_comes_after_it_in_its_order(manager, guest):
    replies = []
    ask(manager, guest, KEY, replies)
    for verb in "resume", "disconnect":
        manager.workers.get(1).call(verb, lambda result, verb=verb: replies.append((verb, result)), disk=KEY)
    manager.until(lambda: len(replies) == 3)
    assert [name for name, _ in replies] == [KEY, "resume", "disconnect"]
    assert replies[1][1] == replies[2][1] == {}


def test_a_disk_that_is_being_started_when_another_manager_comes_is_that_ones_to_order(manager, lost, machine):
    replies = []
    ask(manager, lost, KEY, replies, adopt=True)
    manager.call("ping")
    manager.workers.close()
    manager.workers = Workers(manager.loop, manager.runtime, f"sim:{machine.dir}", 0)
    assert manager.call("list")["disks"] == {}
    ask(manager, lost, KEY, replies, adopt=True)
    manager.until(lambda: replies)
    assert replies[0][1].errno == errno.EINVAL, "its port is gone; it is not said to be connected already"
