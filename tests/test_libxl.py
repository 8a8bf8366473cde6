"""What libxl must find so that it lets us serve a guest's disks, and what it must not find."""
import tempfile
from collections.abc import Iterator

import pytest

from xenvbd import libxl
from xenvbd.store import Store
from xenvbd.store_sim import SimStore, domain


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, SimStore(directory, (0, 7)) as sim, \
            Store(sim.path(0)) as made:
        sim.add_domain(8, "hvm8", pv=False)
        yield made


def test_a_pv_guest_gets_a_stand_in_that_names_no_process(store: Store) -> None:
    assert libxl.stand_in(store, 7)
    assert int(store.read(libxl.device_model(7))) > 2**22           # PID_MAX_LIMIT


def test_an_hvm_guest_has_a_device_model_of_its_own(store: Store) -> None:
    assert libxl.guest_type(store, 8) == "hvm" and not libxl.stand_in(store, 8)
    assert not store.exists(libxl.device_model(8))


def test_a_device_model_that_is_there_is_kept(store: Store) -> None:
    store.write(libxl.device_model(7), "812")
    assert not libxl.stand_in(store, 7) and store.read(libxl.device_model(7)) == b"812"


def test_a_domain_that_is_gone_is_not_brought_back(store: Store) -> None:
    store.rm("/local/domain/7")
    assert not libxl.stand_in(store, 7) and not store.exists("/local/domain/7")
    domain.destroy(store, 8)
    assert libxl.guest_type(store, 8) is None and not libxl.stand_in(store, 8)
