"""The two areas of a vbd in xenstore: complete when they are seen, and never brought back once removed."""
import errno
import os
import random
import tempfile
import threading
from pathlib import Path

import pytest

from xenvbd import area, target, vdev
from xenvbd.area import Areas, Gone, Leaving
from xenvbd.errors import ClaimError, ProtocolError, StoreError
from xenvbd.features import DiskFacts, Properties, backend_keys
from xenvbd.store import Store
from xenvbd.store_sim import SimStore
from xenvbd.xenbus import XenbusState

FACTS = DiskFacts(size=1 << 20)
BACKEND = "/local/domain/0/backend/qdisk/7/51712"
FRONTEND = "/local/domain/7/device/vbd/51712"


@pytest.fixture
def machine():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, SimStore(directory, (0, 7)) as sim:
        yield sim


@pytest.fixture
def store(machine):
    with Store(machine.path(0)) as store:
        yield store


@pytest.fixture
def guest(machine):
    with Store(machine.path(7)) as store:
        yield store


@pytest.fixture
def areas(store):
    return Areas(store, 0, "qdisk", 7, 51712)


@pytest.fixture
def properties():
    return Properties(domid=7, vdev=vdev.parse("xvda"), target=target.parse("mem:1M"))


def toolstack(store):
    """What libxl writes for a disk before the backend has seen it."""
    for name, value in {"frontend": FRONTEND, "params": "aio:/srv/a.img", "frontend-id": "7", "online": "1",
                        "state": "1", "dev": "xvda", "type": "qdisk", "mode": "r"}.items():
        store.write(f"{BACKEND}/{name}", value)
    for name, value in {"backend": BACKEND, "backend-id": "0", "state": "1"}.items():
        store.write(f"{FRONTEND}/{name}", value)


def test_areas_that_we_create_are_complete_and_readable_by_the_guest(areas, properties, guest):
    areas.create(properties, backend_keys(properties, FACTS))
    assert guest.read(f"{BACKEND}/state") == b"2" and guest.read(f"{BACKEND}/sectors") == b"2048"
    assert guest.read(f"{FRONTEND}/backend") == BACKEND.encode()
    guest.write(f"{FRONTEND}/state", "3")
    with pytest.raises(StoreError):
        guest.write(f"{BACKEND}/state", "4")


@pytest.mark.parametrize("write", [
    lambda areas: areas.publish({"sectors": b"1"}), lambda areas: areas.set_state(XenbusState.INITWAIT),
    lambda areas: areas.set_state(XenbusState.CONNECTED)], ids=["publish", "InitWait", "Connected"])
@pytest.mark.parametrize("state", ["5", "6"])
def test_a_toolstacks_unplug_is_never_overwritten_by_an_invitation(areas, store, write, state):
    toolstack(store)
    store.write(f"{BACKEND}/online", "0")
    store.write(f"{BACKEND}/state", state)
    with pytest.raises(Leaving) as caught:
        write(areas)
    assert caught.value.state == int(state)
    assert store.read(f"{BACKEND}/state") == state.encode() and not store.exists(f"{BACKEND}/sectors")


def test_closed_may_be_written_whatever_a_toolstack_wrote(areas, store):
    toolstack(store)
    store.write(f"{BACKEND}/online", "0")
    store.write(f"{BACKEND}/state", "5")
    areas.set_state(XenbusState.CLOSED)
    assert store.read(f"{BACKEND}/state") == b"6"


def test_libxl_gets_its_copy_of_an_area_that_we_create_and_loses_it_with_it(areas, properties, store):
    areas.create(properties, backend_keys(properties, FACTS))
    copy = {name: store.read(f"/libxl/7/device/vbd/51712/{name}") for name in ("backend", "frontend", "type", "mode")}
    assert copy == {"backend": BACKEND.encode(), "frontend": FRONTEND.encode(), "type": b"qdisk", "mode": b"w"}
    areas.remove(frontend=True)
    for path in ("/libxl/7/device/vbd", "/local/domain/7/device/vbd", "/local/domain/0/backend/qdisk/7"):
        assert not store.exists(path)


def test_without_libxl_it_gets_no_copy(areas, properties, store):
    store.rm("/libxl")
    areas.create(properties, {})
    assert not store.exists("/libxl")


def test_another_disk_of_the_guest_keeps_the_directories(areas, properties, store):
    areas.create(properties, {})
    store.write("/libxl/7/device/vbd/51728/dev", "xvdb")
    areas.remove(frontend=True)
    assert store.ls("/libxl/7/device/vbd") == ["51728"] and not store.exists(FRONTEND)


def test_the_frontends_area_goes_also_if_the_backends_went_before(areas, properties, store):
    areas.create(properties, {})
    store.rm(BACKEND)
    areas.remove(frontend=True)
    assert not store.exists(FRONTEND) and not store.exists("/libxl/7/device/vbd")


def test_an_area_that_another_backend_has_taken_is_not_published(areas, store):
    toolstack(store)
    store.write(f"{BACKEND}/state", "2")
    with pytest.raises(Gone, match="another backend"):
        areas.publish({"sectors": b"1"})
    assert not store.exists(f"{BACKEND}/sectors")


def test_a_vdev_that_is_taken_is_refused_by_name_and_left_as_it_is(areas, properties, store):
    toolstack(store)
    with pytest.raises(ClaimError, match="taken"):
        areas.create(properties, {})
    assert store.read(f"{BACKEND}/state") == b"1"


def test_what_the_toolstack_asks_for_is_read(areas, store):
    toolstack(store)
    found = areas.properties()
    assert (found.target.path, found.mode, found.vdev.name) == ("/srv/a.img", "r", "xvda")


def test_both_sides_are_seen_as_they_are_written(areas, store):
    assert areas.see() == area.Seen(None, None, None)
    toolstack(store)
    store.write(f"{FRONTEND}/state", b"four\0")
    assert areas.see() == area.Seen(b"1", b"1", b"four\0")


def test_an_error_is_reported_and_cleared(areas, store):
    toolstack(store)
    areas.report("no such file")
    assert store.read(f"{BACKEND}/hotplug-status") == b"error"
    assert store.read(f"{BACKEND}/error") == store.read(f"{BACKEND}/hotplug-error") == b"no such file"
    areas.clear_error()
    assert store.read(f"{BACKEND}/hotplug-status") == b"connected"
    assert not store.exists(f"{BACKEND}/error") and not store.exists(f"{BACKEND}/hotplug-error")


def test_an_error_is_short_and_ascii_whatever_caused_it(areas, store):
    toolstack(store)
    areas.report("\u2026" + "x" * 5000)
    assert store.read(f"{BACKEND}/error").startswith(b"\\u2026xxx")


@pytest.mark.parametrize("write", [
    lambda areas: areas.publish({"sectors": b"1"}), lambda areas: areas.set_state(XenbusState.CONNECTED),
    lambda areas: areas.report("late"), lambda areas: areas.clear_error(),
    lambda areas: areas.take_offline(closing=True)], ids=["publish", "state", "error", "clear", "offline"])
def test_a_removed_area_is_not_brought_back(areas, store, write):
    toolstack(store)
    store.rm(BACKEND)
    with pytest.raises(Gone):
        write(areas)
    assert not store.exists(BACKEND)


def test_a_new_area_of_the_same_name_is_not_ours(areas, store):
    toolstack(store)
    areas.publish({"sectors": b"2048"})
    store.rm(BACKEND)
    toolstack(store)
    with pytest.raises(Gone):
        areas.set_state(XenbusState.CLOSED)
    assert store.read(f"{BACKEND}/state") == b"1" and areas.see().backend is None


def test_removing_an_area_that_is_gone_is_done(areas, store):
    areas.remove(frontend=True)
    assert not store.exists(BACKEND)


def test_removing_takes_the_frontend_along_only_if_it_is_ours(areas, properties, store):
    areas.create(properties, {})
    store.write(f"{FRONTEND}/backend", "/local/domain/9/backend/vbd/7/51712")
    areas.remove(frontend=True)
    assert store.exists(FRONTEND) and not store.exists(BACKEND)


def test_removing_the_last_of_a_guest_s_areas_leaves_no_empty_directory(areas, properties, store):
    areas.create(properties, {})
    areas.remove(frontend=True)
    assert not store.exists(os.path.dirname(BACKEND))


def test_removing_one_of_several_areas_leaves_the_others(areas, properties, store):
    areas.create(properties, {})
    other = f"{os.path.dirname(BACKEND)}/51728"
    store.write(f"{other}/state", b"4")
    areas.remove(frontend=True)
    assert store.exists(other)


@pytest.mark.parametrize("closing, state", [(True, b"5"), (False, b"1")])
def test_a_disk_is_taken_offline_with_closing_or_without(areas, store, closing, state):
    toolstack(store)
    areas.take_offline(closing=closing)
    assert (store.read(f"{BACKEND}/online"), store.read(f"{BACKEND}/state")) == (b"0", state)


def test_an_agreement_names_the_node_that_is_wrong(areas, properties, guest):
    areas.create(properties, {})
    guest.write(f"{FRONTEND}/ring-ref", "8")
    with pytest.raises(ProtocolError, match="event-channel"):
        areas.agreement(properties)
    guest.write(f"{FRONTEND}/event-channel", "3")
    assert areas.agreement(properties).queues[0].ring_refs == (8,)


def test_an_area_removed_at_any_moment_is_never_resurrected(areas, machine, store):
    """The toolstack removes and makes the area again while we write: what is removed stays removed."""
    generator = random.Random(7)
    stop = threading.Event()

    def toolstack_s_part():
        with Store(machine.path(0)) as other:
            for _ in range(150):
                toolstack(other)
                stop.wait(generator.random() / 500)
                other.rm(BACKEND)
                assert not other.exists(BACKEND), "a removed area came back"
                stop.wait(generator.random() / 1000)
                assert not other.exists(BACKEND), "a removed area came back"
        stop.set()

    failures = []
    thread = threading.Thread(target=lambda: _run(toolstack_s_part, failures, stop))
    thread.start()
    writes = [lambda: areas.publish({"sectors": b"1"}), lambda: areas.set_state(XenbusState.CLOSING),
              lambda: areas.report("x"), areas.clear_error, lambda: areas.set_state(XenbusState.CLOSED)]
    while not stop.is_set():
        areas.published = False
        try:
            generator.choice(writes)()
        except StoreError as exc:
            assert exc.errno in (errno.ENOENT, errno.EAGAIN, errno.EBUSY)
    thread.join()
    assert not failures and not Path(machine.path(0)).is_dir()


def _run(part, failures, stop):
    try:
        part()
    except BaseException as exc:
        failures.append(exc)
    finally:
        stop.set()
