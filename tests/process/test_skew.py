"""Manager and workers of different versions on one host: what fits goes on, what does not says what to do."""
import contextlib
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.host import wait
from tests.support.succession import make_version_1
from xenvbd import journal, record, wire
from xenvbd.errors import Error

TOP = Path(__file__).parents[2]
DEVID, SECOND = 51712, 51728
LOAD = ("--rw", "randrw", "--bs", 4096, "--iodepth", 8, "--seconds", "60s")


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """The environment of a manager whose package asks its workers in another way to connect."""
    tree = tmp_path_factory.mktemp("older")
    shutil.copytree(TOP / "xenvbd", tree / "xenvbd", ignore=shutil.ignore_patterns("__pycache__", "*.pyx", "*.pxd"))
    file = tree / "xenvbd/wire.py"
    file.write_text(re.sub(r"^PROTOCOL = \d+", f"PROTOCOL = {wire.PROTOCOL - 1}", file.read_text(), flags=re.M))
    return {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


def served_by(host, environment, here=False):
    """A guest under load whose manager was of that version, and is to be of ours next; here: it still lives."""
    host.manager.kill()
    host.manager.wait(30)
    host.start_manager(**environment)
    host.attach(1, host.image(), wait=False)
    guest = host.guest(1, DEVID, *LOAD).connected()
    if not here:
        host.manager.kill()
        host.manager.wait(30)
    return guest


def ops(host):
    return host.client.call("show", disk="1:xvda")["stats"]["write"]["ops"]


def progresses(host):
    before = ops(host)
    return wait(lambda: ops(host) > before, "the guest goes on")


def end(guest):
    guest.process.terminate()
    result = guest.finish()
    assert result["errors"] == result["mismatches"] == 0 < result["ops"]


def test_a_worker_of_another_version_serves_on_takes_no_disk_and_is_replaced_as_its_refusal_says(host, older):
    guest = served_by(host, older)
    host.start_manager()
    wait(lambda: host.client.call("list")["disks"], "the disk is taken over")
    before = host.worker(1)
    assert progresses(host)
    host.attach(1, host.image("b.img"), vdev="xvdb", wait=False)
    second = host.guest(1, SECOND, *LOAD)
    wait(lambda: "xenvbd restart --worker DISK" in host.client.call("show", disk="1:xvdb")["note"], "it is refused")
    assert progresses(host)
    host.client.call("restart", disk="1:xvda")
    assert host.worker(1) != before and progresses(host)
    # What the next worker can do it does, without the guest doing anything.
    wait(lambda: any(each["ops"] for each in second.connected().events("progress")), "the second is served")
    end(second)
    end(guest)


def test_a_worker_that_dies_between_upgrade_and_restart_of_the_manager_is_followed_after_it(host, older, tmp_path):
    """The manager is of one version, what is installed in its place and workers are started from is of another."""
    tree = tmp_path / "installed"
    shutil.copytree(older["PYTHONPATH"], tree)
    guest = served_by(host, older | {"PYTHONPATH": str(tree)}, here=True)
    shutil.copy(TOP / "xenvbd/wire.py", tree / "xenvbd/wire.py")

    def refused():      # the spare that there is may still be of the manager's version: it is killed too
        shown = host.client.call("show", disk="1:xvda")
        if shown["plane"] == "running" and shown["pid"]:
            with contextlib.suppress(ProcessLookupError):       # it has ended since
                os.kill(shown["pid"], signal.SIGKILL)
        return "if that is the older one" in shown["note"]

    wait(refused, "it says what to do")
    before = host.client.call("restart")
    wait(lambda: host.restarted(before), "the manager answers again")
    assert progresses(host)
    end(guest)


def test_a_record_of_a_later_version_is_left_alone_and_its_disk_is_served_on(host):
    guest = served_by(host, {})
    path = host.path / "run" / f"qdisk-1-{DEVID}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": record.VERSION + 1, "writer": "9.9"}))
    host.start_manager()
    assert host.client.call("list") == {"disks": []}
    wait(lambda: "go back to xenvbd 9.9" in host.text(), "the log says what to do")
    seen = guest.events("progress")[-1]["ops"]
    wait(lambda: guest.events("progress")[-1]["ops"] > seen, "the guest goes on")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": record.VERSION}))
    host.manager.kill()
    host.manager.wait(30)
    host.start_manager()
    wait(lambda: host.client.call("list")["disks"], "the disk is taken over")
    end(guest)


def test_a_journal_of_another_version_stays_with_its_worker(host):
    guest = served_by(host, {})
    host.start_manager()
    wait(lambda: host.client.call("list")["disks"], "the disk is taken over")
    with open(host.path / "run" / f"qdisk-1-{DEVID}.q0.journal", "r+b") as file:
        file.seek(8)
        old = file.read(4)
        file.seek(8)
        file.write((77).to_bytes(4, "little"))
        file.flush()
        with pytest.raises(Error, match="its journal is of version 77"):
            host.client.call("restart", disk="1:xvda")
        assert progresses(host)
        file.seek(8)
        file.write(old)
    end(guest)


def test_the_ring_of_a_worker_of_0_1_that_dies_after_the_upgrade_is_adopted(host):
    """Its journal ends where version 1 does."""
    host.attach(1, host.image(), wait=False)
    guest = host.guest(1, DEVID, *LOAD, "--verify").connected()
    wait(lambda: ops(host), "something was answered")
    pid = host.worker(1)
    with open(host.path / "run" / f"qdisk-1-{DEVID}.q0.journal", "r+b") as file:
        os.kill(pid, signal.SIGSTOP)
        make_version_1(file.fileno())
        os.kill(pid, signal.SIGKILL)
        wait(lambda: host.worker(1) not in (pid, None) and journal.version_of(file.fileno())[0] == 2, "it is adopted")
    assert progresses(host) and "begun its ring anew" not in host.text()
    end(guest)
