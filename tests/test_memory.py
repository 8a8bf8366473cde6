"""How much memory a worker may have; tests/process/test_worker.py has one that wants more, and the largest disk."""
import os
import re
import resource
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from xenvbd import memory, target, vdev
from xenvbd.features import Agreement, QueueAgreement
from xenvbd.memory import MIB, Allowance
from xenvbd.properties import DiskFacts, Properties
from xenvbd.record import Record

QUEUE = QueueAgreement((8,), 3)
RECORD = Record("qdisk", "1", "web1:xvda", True, Properties(1, vdev.parse("xvda"), target.parse("/srv/a.img")),
                DiskFacts(64 * MIB), "uring", 16 * MIB, Agreement(1, 51712, "x86_64-abi", (QUEUE,)))


def test_what_a_disk_needs_grows_with_its_queues_buffers_rings_and_threads() -> None:
    least = memory.of_disk(RECORD)
    assert 16 * MIB < least < 96 * MIB
    many = replace(RECORD.agreement, queues=(QUEUE,) * 4)
    large = replace(RECORD.agreement, queues=(QueueAgreement(tuple(range(8, 24)), 3),))
    in_memory = replace(RECORD.properties, target=target.parse("mem:64M"))
    assert memory.of_disk(replace(RECORD, agreement=many)) > 3 * least
    assert memory.of_disk(replace(RECORD, agreement=large)) > least + 3 * MIB
    assert memory.of_disk(replace(RECORD, buffer_bytes=32 * MIB)) == least + 16 * MIB
    assert memory.of_disk(replace(RECORD, properties=in_memory)) == least + 64 * MIB
    assert memory.of_disk(replace(RECORD, engine="threads")) == least, "it may come to be served by threads"
    assert memory.of_disk(replace(RECORD, agreement=None)) == 0


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


def limit(process) -> int:
    return resource.prlimit(process.pid, resource.RLIMIT_DATA)[0]


@pytest.mark.skipif(not (memory.limited() and memory.can_raise()), reason="limits cannot be raised here")
def test_a_limit_is_raised_for_what_comes_and_not_lowered_for_what_goes(process) -> None:
    Allowance(process.pid).begin()
    allowance = Allowance(process.pid)
    allowance.allow("a", 5 * MIB)
    allowance.allow("b", 7 * MIB)
    assert limit(process) == memory.BASE + 12 * MIB
    allowance.allow("b", 0)
    allowance.allow("c", 6 * MIB)
    assert limit(process) == memory.BASE + 12 * MIB
    later = Allowance(process.pid)              # of a manager that found the worker
    later.allow("a", 5 * MIB)
    assert limit(process) == memory.BASE + 12 * MIB
    later.allow("d", 8 * MIB)
    assert limit(process) == memory.BASE + 13 * MIB


def test_where_a_limit_cannot_be_raised_there_is_one_for_all_disks_from_the_start(process, monkeypatch) -> None:
    monkeypatch.delenv("XENVBD_SANDBOX", raising=False)
    monkeypatch.setattr(memory, "can_raise", lambda: False)
    Allowance(process.pid).begin()
    total = int(re.search(r"MemTotal: *(\d+) kB", Path("/proc/meminfo").read_text())[1]) << 10
    assert memory.BASE < limit(process) <= total // 2 + MIB
    Allowance(process.pid).allow("a", 5 * MIB)
    assert limit(process) == memory.UNRAISED


def test_a_worker_that_is_not_confined_and_one_that_has_gone_are_left_alone(process, monkeypatch) -> None:
    monkeypatch.setenv("XENVBD_SANDBOX", "off")
    Allowance(process.pid).begin()
    Allowance(process.pid).allow("a", MIB)
    assert limit(process) == resource.RLIM_INFINITY
    process.kill()
    os.waitpid(process.pid, 0)
    monkeypatch.delenv("XENVBD_SANDBOX")
    Allowance(process.pid).begin()
    Allowance(process.pid).allow("a", MIB)
