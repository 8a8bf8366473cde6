"""Each persona's handshake, step by step, against a scripted backend."""
import os
import time

import pytest

from tests.frontend.model import READ, WRITE
from tests.frontend.scripted import DEVID
from xenvbd.frontend.bus import HandshakeError, HandshakeTimeout, State
from xenvbd.frontend.persona import PERSONAS, persona
from xenvbd.store import Store

BACK = f"/local/domain/0/backend/qdisk/5/{DEVID}"
FRONT = f"/local/domain/5/device/vbd/{DEVID}"
RING = {"ring-ref", "event-channel", "protocol"}
TOOLSTACK = {"backend", "backend-id", "device-type", "state"}


def steps(frontend) -> list[tuple[str | None, str | None]]:
    """Listen to a frontend: the states of both sides (frontend, backend) as it goes."""
    seen: list[tuple[str | None, str | None]] = []
    frontend.bus._note = lambda event, f: seen.append((f["frontend"], f["backend"])) if event == "state" else None
    return seen


@pytest.mark.parametrize("name", PERSONAS)
def test_every_persona_connects_does_io_closes_and_connects_again(backend, frontend_of, name) -> None:
    for _ in range(2):
        frontend = frontend_of(persona=name)
        assert frontend.connect().sectors == 2048
        data = os.urandom(10 * 512)
        frontend.write(100, data)
        assert frontend.read(100, 10) == data
        frontend.close()
        if name == "grub":          # it does not wait for the backend, and the next of it would not either
            until_it_waits(backend)
        assert backend.model is None


def test_linux_waits_for_initwait_and_connects_last(backend, frontend_of) -> None:
    frontend = frontend_of(persona="linux")
    seen = steps(frontend)
    frontend.connect()
    assert seen == [(None, "InitWait"), ("Initialised", "InitWait"), ("Initialised", "Connected"),
                    ("Connected", "Connected")]
    assert set(backend.agreed) == TOOLSTACK | RING | {"feature-persistent"}
    assert backend.agreed["protocol"] == b"x86_64-abi"


def test_linux_writes_the_pages_of_a_larger_ring_by_number(backend, frontend_of) -> None:
    facts = frontend_of(ring_page_order=2, indirect=256).connect()
    assert (facts.ring_page_order, facts.max_segments) == (2, 256)
    assert set(backend.agreed) >= {"ring-page-order", "ring-ref0", "ring-ref1", "ring-ref2", "ring-ref3"}
    assert "ring-ref" not in backend.agreed


def test_linux_takes_as_many_queues_as_both_want_each_in_a_directory(backend_of, frontend_of) -> None:
    backend = backend_of(multi_queue_max_queues="2")
    backend.store.write(f"{backend.back}/state", "2")
    with pytest.raises(HandshakeTimeout):
        frontend_of(queues=4, ring_page_order=1, timeout=0.2).connect()
    front = backend.front
    assert set(backend.store.ls(front)) >= {"multi-queue-num-queues", "ring-page-order", "queue-0", "queue-1"}
    assert backend.store.read(f"{front}/multi-queue-num-queues") == b"2"
    for number in range(2):
        assert set(backend.store.ls(f"{front}/queue-{number}")) == {"ring-ref0", "ring-ref1", "event-channel"}


def test_linux_ignores_an_offer_of_11_indirect_segments_or_fewer(backend_of, frontend_of) -> None:
    backend_of(feature_max_indirect_segments="11").start()
    assert frontend_of(indirect=32).connect().max_segments == 11


@pytest.mark.parametrize("node", ["sectors", "info", "sector-size"])
@pytest.mark.parametrize("name", ["linux", "freebsd"])
def test_without_the_size_a_frontend_gives_up_and_goes_to_closing(backend_of, frontend_of, name, node) -> None:
    backend_of(**{node: None}).start()
    frontend = frontend_of(persona=name)
    with pytest.raises(HandshakeError, match=f"{BACK}/{node}: expected a number, found no node"):
        frontend.connect()
    assert frontend.bus.state is State.Closing


def test_a_backend_that_never_comes_is_named_with_what_was_awaited(backend_of, frontend_of) -> None:
    backend_of()
    with pytest.raises(HandshakeTimeout) as caught:
        frontend_of(timeout=0.1).connect()
    assert str(caught.value) == f"{BACK}/state: linux: waited 0.1 s for InitWait (2), found '1' (Initialising)"


def test_an_area_that_never_comes_is_named(store_server, frontend_of) -> None:
    awaited = f"{FRONT}/backend: linux: waited 0.1 s for the backend's path, found no node"
    with pytest.raises(HandshakeTimeout, match=awaited):
        frontend_of(timeout=0.1).connect()


def test_a_backend_that_refuses_is_quoted(backend, frontend_of) -> None:
    backend.refuses = True
    with pytest.raises(HandshakeError, match="waited for Connected, the backend went to Closing: no such image"):
        frontend_of().connect()


def test_kexec_takes_the_ring_of_a_dead_predecessor_away_first(backend, frontend_of) -> None:
    first = frontend_of()
    first.connect()
    first.write(0, b"k" * 512)
    first.abandon()
    second = frontend_of(blank=False)
    seen = steps(second)
    second.connect()
    assert [front for front, _ in seen] == [None, "Closing", "Closing", "Closed", "Closed", "Initialising",
                                            "Initialising", "Initialised", "Initialised", "Connected"]
    assert second.read(0, 1) == b"k" * 512


def test_windows_closes_first_and_asks_for_large_sectors(backend, frontend_of) -> None:
    frontend = frontend_of(persona="windows")
    seen = steps(frontend)
    frontend.connect()
    assert seen == [(None, "InitWait"), ("Closing", "InitWait"), ("Closing", "Closing"), ("Closed", "Closing"),
                    ("Closed", "Closed"), ("Initialising", "Closed"), ("Initialising", "InitWait"),
                    ("Initialised", "InitWait"), ("Initialised", "Connected"), ("Connected", "Connected")]
    assert backend.agreed["multi-queue-num-queues"] == b"1"
    assert backend.agreed["feature-large-sector-size"] == b"1"
    assert backend.agreed["ring-page-order"] == b"4"


def test_windows_asked_to_unplug_says_ejected(backend, frontend_of) -> None:
    frontend = frontend_of(persona="windows")
    frontend.connect()
    backend.store.transaction(lambda tx: [tx.write(f"{BACK}/online", "0"), tx.write(f"{BACK}/state", "5")])
    assert frontend.look() == "closing"
    frontend.close()
    assert backend.store.read(f"{FRONT}/ejected") == b"1"


@pytest.mark.parametrize(("pages", "order"), [("16", 4), ("1", 0), ("12", 3), ("64", 5)])
def test_freebsd_follows_max_ring_pages_rounded_down(backend_of, frontend_of, pages, order) -> None:
    backend = backend_of(max_ring_pages=pages).start()
    assert frontend_of(persona="freebsd").connect().ring_page_order == order
    assert backend.agreed.get("num-ring-pages") == (str(1 << order).encode() if order else None)
    assert set(backend.agreed) >= {"max-requests", "max-request-segments", "max-request-size"}


def test_freebsd_with_the_disk_in_use_refuses_to_close(backend, frontend_of) -> None:
    frontend = frontend_of(persona="freebsd")
    frontend.connect()
    frontend.persona.refuse_closing(frontend.bus)
    assert backend.store.read(f"{FRONT}/error") == b"16 Device in use; refusing to close"
    assert frontend.bus.state is State.Connected


def test_minios_goes_straight_to_connected_before_the_backend_is_ready(backend_of, frontend_of) -> None:
    backend = backend_of()
    frontend = frontend_of(persona="minios")
    frontend.bus.dispatch = lambda timeout=0.0: backend._thread.is_alive() or backend.start()
    frontend.connect()
    assert backend.states[0] == 4


def test_minios_needs_the_mode(backend_of, frontend_of) -> None:
    backend_of(mode=None).start()
    with pytest.raises(HandshakeError, match=f"{BACK}/mode: expected r or w, found no node"):
        frontend_of(persona="minios").connect()
    frontend_of(persona="ovmf")     # does not


def until_it_waits(backend) -> None:
    """Wait until the backend is at InitWait again."""
    deadline = time.monotonic() + 10
    while backend.store.read(f"{BACK}/state") != b"2":
        assert time.monotonic() < deadline, "the backend did not go back to InitWait"
        time.sleep(0.005)


def test_minios_leaves_the_area_ready_for_the_next_kernel(backend, frontend_of) -> None:
    frontend = frontend_of(persona="minios")
    frontend.connect()
    frontend.close()
    assert backend.saw(1, 4, 5, 6, 1)
    until_it_waits(backend)
    assert not backend.store.exists(f"{FRONT}/ring-ref")


def test_ovmf_sees_an_empty_drive_in_params(backend_of, frontend_of) -> None:
    backend = backend_of(params="aio:").start()
    backend.store.write(f"{FRONT}/device-type", "cdrom")
    with pytest.raises(HandshakeError, match="no medium in the drive"):
        frontend_of(persona="ovmf").connect()


def test_grub_stays_at_initialised_and_has_one_request_of_one_page_with_id_0(backend, frontend_of) -> None:
    frontend = frontend_of(persona="grub")
    frontend.connect()
    frontend.write(0, b"g" * 8192)
    assert frontend.read(0, 16) == b"g" * 8192
    assert {(r.id, len(r.segments)) for r in backend.model.seen} == {(0, 1)}
    assert [r.operation for r in backend.model.seen] == [WRITE, WRITE, READ, READ]
    assert frontend.bus.state is State.Initialised


def test_grub_that_starts_before_the_backend_reads_the_size_at_once(backend_of, frontend_of) -> None:
    backend_of(sectors=None)
    with pytest.raises(HandshakeError, match=f"{BACK}/sectors: expected a number"):
        frontend_of(persona="grub").connect()


def test_grub_hands_over_by_closing_and_going_back_to_initialising(backend, frontend_of) -> None:
    frontend = frontend_of(persona="grub")
    frontend.connect()
    frontend.close()
    assert backend.saw(1, 3, 6, 1)
    until_it_waits(backend)         # GRUB does not wait, and a kernel needs longer than that to boot
    frontend_of(persona="linux").connect()


@pytest.mark.parametrize(("name", "sectors", "number", "segment"), [
    ("linux", 2048, 0, 0), ("windows", 2048 * 8, 3, 3), ("freebsd", 2048 * 8, 3, 0), ("minios", 2048 * 8, 0, 0)])
def test_units_with_4096_byte_sectors_are_each_personas_own(backend_of, frontend_of, name, sectors, number, segment):
    backend_of(sector_size="4096").start()
    facts = frontend_of(persona=name).connect()
    assert (facts.sectors, facts.number_shift, facts.segment_shift) == (sectors, number, segment)


def test_nodes_can_be_overridden_or_left_out(backend, frontend_of) -> None:
    frontend_of(nodes={"feature-persistent": None, "colour": "blue"}).connect()
    assert backend.agreed["colour"] == b"blue"
    assert "feature-persistent" not in backend.agreed


def test_a_removed_area_is_never_written_again(backend, frontend_of) -> None:
    frontend = frontend_of()
    frontend.connect()
    backend.store.rm(FRONT)
    with pytest.raises(HandshakeError, match="the area was removed before Closing"):
        frontend.close()
    assert not backend.store.exists(FRONT)


def test_a_rewritten_connected_makes_the_size_be_read_again(backend, frontend_of) -> None:
    frontend = frontend_of()
    frontend.connect()
    dom0 = Store(backend.hypervisor.store_path)
    dom0.transaction(lambda tx: [tx.write(f"{BACK}/sectors", "4096"), tx.write(f"{BACK}/state", "4")])
    dom0.close()
    assert frontend.look() == "connected"
    assert frontend.sectors == 4096


def test_an_unknown_persona_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'amiga' is none of linux, windows, freebsd, minios"):
        persona("amiga")
