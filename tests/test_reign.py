"""One daemon serves a kind of disk of a host, whatever runtime directory it has; the claim goes with its process."""
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from xenvbd.errors import ClaimError
from xenvbd.reign import Holder, Reign
from xenvbd.runtime import Runtime
from xenvbd.store import Store
from xenvbd.store_sim import SimStore

NODE = "/local/domain/0/data/xenvbd/qdisk"


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield from in_directory(directory)


def in_directory(directory: str) -> Iterator[Store]:
    sim = SimStore(directory, (0,)).start()
    store = Store(sim.path(0))
    yield store
    store.close()
    sim.stop()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def held_by(store: Store, pid: int, started: int, place: object = "/run/other") -> None:
    """Another daemon has qdisk."""
    store.write(NODE, Holder(pid, started, str(place)).to_bytes())


def started(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])


def test_a_kind_that_a_living_daemon_serves_is_refused_by_its_name(store, sleeper) -> None:
    held_by(store, sleeper.pid, started(sleeper.pid))
    with pytest.raises(ClaimError, match=rf"process {sleeper.pid}, .* /run/other\) serves backend/qdisk"):
        Reign(store, 0, "/run/xenvbd").take(["vbd", "qdisk"])
    assert store.get("/local/domain/0/data/xenvbd/vbd") is None, "nothing is claimed"
    Reign(store, 0, "/run/xenvbd").take(["vbd"])


def test_what_a_dead_daemon_had_is_free(store, sleeper) -> None:
    held_by(store, sleeper.pid, started(sleeper.pid))
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)       # it has ended, and nobody has asked how
    Reign(store, 0, "/run/xenvbd").take(["qdisk"])


def test_another_process_with_its_number_is_not_it(store, sleeper) -> None:
    held_by(store, sleeper.pid, started(sleeper.pid) - 1)
    Reign(store, 0, "/run/xenvbd").take(["qdisk"])


def test_a_daemon_of_another_container_is_known_by_its_lock(store, tmp_path) -> None:
    held_by(store, 1 << 22, 1, tmp_path)
    fd = Runtime(tmp_path).lock()
    with pytest.raises(ClaimError, match=f"runtime directory {tmp_path}"):
        Reign(store, 0, "/run/xenvbd").take(["qdisk"])
    os.close(fd)
    Reign(store, 0, "/run/xenvbd").take(["qdisk"])


def test_the_next_manager_in_a_directory_goes_on_where_the_last_was(store, sleeper, tmp_path) -> None:
    held_by(store, sleeper.pid, started(sleeper.pid), tmp_path)
    Reign(store, 0, str(tmp_path)).take(["qdisk"])


def test_what_is_claimed_no_more_is_free_and_a_lost_tree_is_written_again(store, sleeper) -> None:
    reign = Reign(store, 0, "/run/xenvbd")
    reign.take(["qdisk", "vbd"])
    reign.take(["vbd"])
    assert not store.exists(NODE)
    store.rm("/local/domain/0/data")
    reign.renew()
    assert Holder.parse(store.read("/local/domain/0/data/xenvbd/vbd")) == Holder.me("/run/xenvbd")


@pytest.mark.parametrize("value", [b"", b"12", b"12 x /run", b"12 13", b"12 13 run", b"\xff \xff /"])
def test_what_is_no_claim_holds_nothing(store, value) -> None:
    assert Holder.parse(value) is None
    store.write(NODE, value)
    Reign(store, 0, "/run/xenvbd").take(["qdisk"])


def test_a_claim_reads_as_it_was_written() -> None:
    for place in ("/run/xenvbd", "/run/a b", os.fsdecode(b"/run/\xff")):
        assert Holder.parse(Holder(1, 2, place).to_bytes()) == Holder(1, 2, place)
