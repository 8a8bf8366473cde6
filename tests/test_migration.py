"""Two domains of one VM on one host, as `xl migrate` makes them: the second has the disk when the first has gone."""
import os

import pytest

from tests.support.manager import BACKEND, FRONTEND, bench
from tests.test_backend import backend
from xenvbd.show import show
from xenvbd.store import Store

SECOND = {7: (BACKEND, FRONTEND), 8: (BACKEND.replace("/7/", "/8/"), FRONTEND.replace("/7/", "/8/"))}


@pytest.fixture
def b(tmp_path, monkeypatch):
    monkeypatch.setattr("xenvbd.connection.OPEN_SECONDS", 0.02)
    image = tmp_path / "a.img"
    image.write_bytes(bytes(1 << 20))
    with bench(domids=(0, 7, 8)) as made:
        made.image = image
        for domid, name in (7, "web1"), (8, "web1--incoming"):
            made.toolstack.write(f"/local/domain/{domid}/vm", "/vm/5")
            made.toolstack.write(f"/local/domain/{domid}/name", name)
        backend(made)
        yield made
        made.backend.close()


def attach(b, domid):
    """What libxl writes; until the disk is offered, or refused."""
    back, front = SECOND[domid]
    for name, value in {"backend": back, "backend-id": 0, "state": 1}.items():
        b.toolstack.write(f"{front}/{name}", str(value))
    b.toolstack.set_perms(front, [f"n{domid}", "r0"])
    b.toolstack.set_perms(f"{front}/state", [f"n{domid}", "r0"])
    nodes = {"frontend": front, "params": f"aio:{b.image}", "frontend-id": domid, "online": 1, "state": 1, "mode": "w",
             "type": "qdisk", "dev": "xvda", "device-type": "disk"}
    b.toolstack.transaction(lambda tx: [tx.write(f"{back}/{name}", str(value)) for name, value in nodes.items()])
    b.until(lambda: state(b, domid) == "2" or b.node("hotplug-error", back))


def connect(b, domid):
    with Store(b.sim.path(domid)) as store:
        for name, value in {"ring-ref": 8, "event-channel": 3, "protocol": "x86_64-abi", "state": 3}.items():
            store.write(f"{SECOND[domid][1]}/{name}", str(value))


def state(b, domid):
    return b.node("state", SECOND[domid][0])


def destroyed(b, domid):
    """xl destroy: the domain is released, then its areas are removed."""
    b.toolstack.release(domid)
    for path in (f"/local/domain/{domid}", SECOND[domid][0]):
        if b.toolstack.exists(path):
            b.toolstack.rm(path)
    b.until(lambda: not b.backend.served(domid))


def worker(b, domid):
    return b.backend.workers.get(domid)


def device(b, domid):
    return b.backend.served(domid)[0]


@pytest.fixture
def migrating(b):
    """The first runs; the second is there, and its driver waits to be connected."""
    attach(b, 7)
    connect(b, 7)
    b.until(lambda: state(b, 7) == "4")
    attach(b, 8)
    connect(b, 8)
    b.until(lambda: device(b, 8).landing)
    return b


def test_the_second_is_offered_its_disk_and_says_whom_it_waits_for(migrating):
    b = migrating
    assert state(b, 8) == "2" and state(b, 7) == "4"
    assert "has it until its domain is destroyed" in show(device(b, 8))["note"]
    assert b.node("error", SECOND[8][0]) is None and worker(b, 8).images == []


def test_the_second_is_connected_when_the_first_has_been_destroyed(migrating):
    b = migrating
    destroyed(b, 7)
    b.until(lambda: state(b, 8) == "4")
    assert worker(b, 8).images == worker(b, 7).images


def test_the_first_goes_on_as_if_nothing_had_been_if_the_second_fails(migrating):
    b = migrating
    destroyed(b, 8)
    b.settle()
    assert state(b, 7) == "4" and worker(b, 7).calls == ["connect"]


def test_a_second_that_fails_before_it_starts_leaves_the_first_as_it_was(b):
    attach(b, 7)
    connect(b, 7)
    b.until(lambda: state(b, 7) == "4")
    attach(b, 8)
    destroyed(b, 8)
    assert state(b, 7) == "4" and worker(b, 7).calls == ["connect"]


def test_the_images_name_may_change_meanwhile(migrating):
    b = migrating
    (b.image.parent / "b.img").write_bytes(bytes(1 << 20))
    os.replace(b.image.parent / "b.img", b.image)
    destroyed(b, 7)
    b.until(lambda: state(b, 8) == "4")
    assert worker(b, 8).images == worker(b, 7).images


def test_a_domain_of_another_vm_is_refused(b):
    attach(b, 7)
    b.toolstack.write("/local/domain/8/vm", "/vm/6")
    attach(b, 8)
    assert state(b, 8) == "1" and "it is the image of web1:xvda" in b.node("hotplug-error", SECOND[8][0])
