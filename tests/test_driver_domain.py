"""A manager in a driver domain: it sees only what xenstored lets a guest see, and removes its own areas."""
import pytest

from tests.support.manager import bench
from tests.test_backend import FakeWorkers
from xenvbd.backend import Backend
from xenvbd.config import DiskOptions
from xenvbd.medium import Policy
from xenvbd.store import Store
from xenvbd.store_sim import domain

DRIVER, GUEST = 2, 7
BACK = f"/local/domain/{DRIVER}/backend/qdisk/{GUEST}/51712"
FRONT = f"/local/domain/{GUEST}/device/vbd/51712"


@pytest.fixture
def b(tmp_path):
    with bench(domids=(0, DRIVER, GUEST)) as made:
        image = tmp_path / "a.img"
        image.write_bytes(bytes(1 << 20))
        store = Store(made.sim.path(DRIVER))
        made.loop.read(store.fileno(), store.dispatch)
        made.image, made.backend = image, Backend(
            made.loop, store, made.runtime, FakeWorkers(made.loop), Policy(), ("qdisk",),
            lambda *names: DiskOptions(), channels=lambda domid, count: [], rival=lambda kind, domid: None)
        made.backend.start()
        made.until(lambda: made.backend.ready)
        yield made
        made.backend.close()
        made.loop.forget(store.fileno())
        store.close()


def libxl(b):
    """What libxl in dom0 writes: the leaf is the driver domain's, all above it dom0's; the frontend's is read-only."""
    def add(tx):
        for area, perms in ((BACK, [f"n{DRIVER}", f"r{GUEST}"]), (FRONT, [f"n{GUEST}", f"r{DRIVER}"])):
            tx.mkdir(area)
            tx.set_perms(area, perms)
        for name, value in {"frontend": FRONT, "params": f"aio:{b.image}", "frontend-id": GUEST, "online": 1,
                            "state": 1, "dev": "xvda", "type": "qdisk", "mode": "w", "device-type": "disk"}.items():
            tx.write(f"{BACK}/{name}", str(value))
        for name, value in {"backend": BACK, "backend-id": DRIVER, "state": 1}.items():
            tx.write(f"{FRONT}/{name}", str(value))
    b.toolstack.transaction(add)


def connected(b):
    libxl(b)
    b.until(lambda: b.node("state", BACK) == "2")
    b.guest.connect()
    b.until(lambda: b.node("state", BACK) == "4")


def close(tx):
    """libxl's first step of a detach, and of a domain's end."""
    tx.write(f"{BACK}/online", "0")
    tx.write(f"{BACK}/state", "5")


def gone(b):
    """Nothing of the disk is left, and nothing is tried again and again."""
    b.until(lambda: not b.toolstack.exists(BACK) and not b.backend.devices)
    b.settle()
    return not b.backend._dirty and not b.loop.failures


def test_a_disk_is_served_and_its_area_removed_after_a_detach(b):
    connected(b)
    b.toolstack.transaction(close)
    b.until(lambda: b.node("state", BACK) == "5")
    b.guest.state(6)
    assert gone(b)


def test_a_guest_that_is_destroyed_takes_its_disk_along(b):
    connected(b)
    b.toolstack.transaction(lambda tx: (tx.rm(FRONT), close(tx))[1])
    domain.destroy(b.toolstack, GUEST)
    assert gone(b)


def test_a_frontend_that_vanishes_is_no_error_that_repeats(b):
    connected(b)
    b.toolstack.rm(FRONT)
    b.until(lambda: b.node("state", BACK) == "6")
    b.settle()
    assert not b.backend._dirty


def test_pv_guests_of_another_domain_get_no_device_model(b):
    libxl(b)
    b.until(lambda: b.node("state", BACK) == "2")
    assert not b.toolstack.exists(f"/local/domain/{GUEST}/image")
