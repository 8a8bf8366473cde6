"""The simulated store as a process and a thread: what only it has, beside xenstored's own rules (test_store.py)."""
from pathlib import Path

import pytest

from xenvbd.store import Store
from xenvbd.store_sim import SimStore


@pytest.fixture
def sim(tmp_path: Path):
    with SimStore(tmp_path, (0, 1)) as sim:
        yield sim


def test_each_domain_has_a_socket_and_is_known_by_it(sim: SimStore) -> None:
    with Store(sim.path(0)) as dom0, Store(sim.path(1)) as guest:
        assert (dom0.domid, guest.domid) == (0, 1)
        assert guest.read("name") == b"domain1"


def test_a_store_started_again_has_its_tree_back(tmp_path: Path) -> None:
    with SimStore(tmp_path) as sim, Store(sim.path()) as dom0:
        dom0.write("/a/b", b"\xff\n\0")
        dom0.set_perms("/a/b", ["n0", "r1"])
    with SimStore(tmp_path) as sim, Store(sim.path()) as dom0:
        assert dom0.read("/a/b") == b"\xff\n\0"
        assert dom0.get_perms("/a/b") == ["n0", "r1"]
