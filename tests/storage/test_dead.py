"""A file system whose server is dead: whoever asks it anything hangs.  It must be nobody else's trouble."""
import ctypes
import os

import pytest

from tests.support.host import SimHost, wait
from xenvbd.store import Store

GUESTS = 40


@pytest.fixture
def host():
    made = SimHost(domids=tuple(range(GUESTS + 2)))
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def dead(host):
    """A FUSE file system that nobody serves."""
    place = host.path / "dead"
    place.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"dead", bytes(place), b"fuse", 0, options):
        pytest.skip(f"not possible here: a FUSE mount: {os.strerror(ctypes.get_errno())}")
    yield place
    os.close(server)                    # what hangs is let go with an error
    libc.umount2(bytes(place), 2)       # MNT_DETACH


def ask_for(store, domid, target):
    """What a toolstack writes to attach a disk."""
    back, front = f"/local/domain/0/backend/qdisk/{domid}/51712", f"/local/domain/{domid}/device/vbd/51712"
    for name, value in {"backend": back, "backend-id": 0, "state": 1}.items():
        store.write(f"{front}/{name}", str(value))
    for name, value in {"frontend": front, "frontend-id": domid, "params": f"aio:{target}", "mode": "w", "dev": "xvda",
                        "device-type": "disk", "online": 1, "state": 1}.items():
        store.write(f"{back}/{name}", str(value))


def test_forty_guests_on_a_dead_file_system_keep_none_on_another_from_its_disk(host, dead):
    with Store(f"{host.directory}/store.0") as store:
        for domid in range(1, GUESTS + 1):
            ask_for(store, domid, f"{dead}/{domid}.img")
        wait(lambda: len(host.client.call("list")["disks"]) == GUESTS, "the others are asked for")
        ask_for(store, GUESTS + 1, host.image())
        wait(lambda: store.get(f"/local/domain/0/backend/qdisk/{GUESTS + 1}/51712/state") == b"2", "it is offered",
             seconds=4)             # a tenth of a second is enough; the others have 8
