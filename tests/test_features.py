"""What we publish is what blkif.h says; what a guest writes is believed only when it is exact."""
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd import features, vdev
from xenvbd.errors import PropertyError, ProtocolError
from xenvbd.features import Agreement, QueueAgreement, read_agreement, read_properties
from xenvbd.properties import DiskFacts, Properties
from xenvbd.target import Target

PROPS = Properties(7, vdev.parse("xvda"), Target("file", "/srv/d.img"))
FACTS = DiskFacts(size=1 << 30, physical_block_size=4096, can_discard=True, discard_granularity=4096)
FE = "/local/domain/7/device/vbd/51712"
BE = "/local/domain/0/backend/qdisk/7/51712"
Nodes = dict[str, bytes]


# --- publishing ---

def test_the_areas_are_where_every_toolstack_puts_them() -> None:
    assert features.backend_path(0, "qdisk", 7, 51712) == BE
    assert features.frontend_path(7, 51712) == FE


def test_the_guest_can_read_our_area_and_nobody_else_can() -> None:
    assert features.backend_permissions(3, 7) == ["n3", "r7"]
    assert features.frontend_permissions(3, 7) == ["n7", "b3"]


def test_a_plain_disk_publishes_everything_that_a_frontend_may_ask_for() -> None:
    assert features.backend_keys(PROPS, FACTS) == {
        "hotplug-status": b"connected", "mode": b"w", "info": b"0",
        "sectors": b"2097152", "sector-size": b"512", "physical-sector-size": b"4096",
        "max-ring-page-order": b"4", "max-ring-pages": b"16", "multi-queue-max-queues": b"1",
        "feature-flush-cache": b"1", "feature-persistent": b"0", "feature-max-indirect-segments": b"256",
        "feature-discard": b"1", "discard-granularity": b"4096", "discard-alignment": b"0",
        "discard-secure": b"0"}


@pytest.mark.parametrize(("change", "key", "value"), [
    ({"mode": "r"}, "mode", b"r"), ({"mode": "r"}, "info", b"4"), ({"device_type": "cdrom"}, "info", b"5"),
    ({"device_type": "cdrom"}, "mode", b"r"), ({"barrier": True}, "feature-barrier", b"1"),
    ({"max_indirect": 0}, "feature-max-indirect-segments", None),
    ({"barrier": False}, "feature-barrier", None),
    ({"max_queues": 4}, "multi-queue-max-queues", b"4"), ({"max_ring_page_order": 0}, "max-ring-pages", b"1"),
    ({"discard_enable": False}, "feature-discard", None), ({"mode": "r"}, "feature-discard", None),
    ({"discard_granularity": 8192}, "discard-granularity", b"8192"),
    ({"logical_block_size": 4096}, "sectors", b"2097152"),
    ({"logical_block_size": 4096}, "sector-size", b"4096"),
    ({"logical_block_size": 4096, "large_sector_units": "qemu"}, "sectors", b"262144"),
    ({"physical_block_size": 65536}, "physical-sector-size", b"65536"),
])
def test_each_property_shows_in_its_node(change: dict[str, object], key: str, value: bytes | None) -> None:
    assert features.backend_keys(replace(PROPS, **change), FACTS).get(key) == value


@pytest.mark.parametrize(("facts", "key", "value"), [
    ({"can_discard": False}, "discard-granularity", None),
    ({"discard_granularity": 0}, "discard-granularity", b"4096"),
    ({"discard_granularity": 1000}, "discard-granularity", b"1024"),
    ({"discard_alignment": 512}, "discard-alignment", b"512"),
    ({"size": 512 * 9}, "physical-sector-size", b"512"),
    ({"size": 1024 * 9}, "physical-sector-size", b"1024"),
    ({"physical_block_size": 512}, "physical-sector-size", b"512"),
])
def test_each_fact_of_the_target_shows_in_its_node(facts: dict[str, object], key: str,
                                                   value: bytes | None) -> None:
    assert features.backend_keys(PROPS, replace(FACTS, **facts)).get(key) == value


def test_discard_granularity_and_alignment_come_together_or_not_at_all() -> None:
    for can in (True, False):
        keys = features.backend_keys(PROPS, replace(FACTS, can_discard=can))
        for key in ("feature-discard", "discard-granularity", "discard-alignment"):
            assert (key in keys) == can


def test_an_area_that_we_create_says_what_a_toolstack_would() -> None:
    cdrom = replace(PROPS, device_type="cdrom")
    assert features.identity_keys(cdrom, "qdisk") == {
        "frontend": FE.encode(), "frontend-id": b"7", "online": b"1", "dev": b"xvda", "type": b"qdisk",
        "params": b"aio:/srv/d.img", "device-type": b"cdrom", "removable": b"1", "bootable": b"1",
        "discard-enable": b"1"}
    assert features.frontend_keys(replace(PROPS, trusted=False), 0, "qdisk") == {
        "backend": BE.encode(), "backend-id": b"0", "virtual-device": b"51712", "device-type": b"disk",
        "trusted": b"0", "state": b"1"}


def test_what_we_create_reads_as_what_was_asked() -> None:
    for props in (PROPS, replace(PROPS, mode="r", device_type="cdrom"), replace(PROPS, discard_enable=False),
                  replace(PROPS, target=Target("null", size=1 << 30))):
        nodes = features.identity_keys(props, "qdisk") | features.backend_keys(props, FACTS)
        assert read_properties(nodes.get, 0, "qdisk", 7, 51712) == props


# --- a toolstack's area ---

LIBXL: Nodes = {
    "frontend": FE.encode(), "params": b"aio:/srv/d.img", "frontend-id": b"7", "online": b"1",
    "removable": b"0", "bootable": b"1", "state": b"1", "dev": b"xvda", "type": b"qdisk", "mode": b"w",
    "device-type": b"disk", "discard-enable": b"1", "specification": b"xen"}


def test_an_area_of_libxl_is_understood() -> None:
    assert read_properties(LIBXL.get, 0, "qdisk", 7, 51712) == PROPS


@pytest.mark.parametrize(("change", "field", "value"), [
    ({"mode": b"r"}, "mode", "r"), ({"mode": b"w!"}, "mode", "w"), ({"mode": b"w!"}, "share", True),
    ({"device-type": b"cdrom"}, "device_type", "cdrom"),
    ({"device-type": None}, "device_type", "disk"), ({"discard-enable": b"0"}, "discard_enable", False),
    ({"discard-enable": None}, "discard_enable", True),
    ({"params": b"null:1G"}, "target", Target("null", size=1 << 30)),
])
def test_each_node_of_a_toolstack_sets_its_property(change: Nodes, field: str, value: object) -> None:
    assert getattr(read_properties((LIBXL | change).get, 0, "qdisk", 7, 51712), field) == value


@pytest.mark.parametrize(("change", "words"), [
    ({"frontend": b"/local/domain/8/device/vbd/51712"}, f"{BE}/frontend: found .*, expected {FE}"),     # X1
    ({"frontend": None}, f"{BE}/frontend: found nothing, expected {FE}"),
    ({"frontend-id": b"8"}, f"{BE}/frontend-id: found '8', expected a number from 7 to 7"),
    ({"params": None}, f"{BE}/params: found nothing, expected the target"),
    ({"params": b"aio:"}, "no medium"),
    ({"params": b"qcow2:/srv/d"}, "only raw is"),
    ({"mode": None}, f"{BE}/mode: found nothing, expected r or w"),
    ({"mode": b"x"}, f"{BE}/mode: found 'x', expected r or w"),
    ({"device-type": b"floppy"}, f"{BE}/device-type: found 'floppy', expected disk or cdrom"),
    ({"discard-enable": b"yes"}, f"{BE}/discard-enable: found 'yes', expected a number from 0 to 1"),
])
def test_a_wrong_node_of_a_toolstack_is_named_with_what_was_found(change: Nodes, words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        read_properties((LIBXL | change).get, 0, "qdisk", 7, 51712)


# --- a frontend's area ---

LINUX: Nodes = {"ring-ref": b"8", "event-channel": b"15", "protocol": b"x86_64-abi"}
ORDER2: Nodes = {"ring-page-order": b"2", "event-channel": b"15", "protocol": b"x86_64-abi",
                 **{f"ring-ref{i}": str(100 + i).encode() for i in range(4)}}
TWO: Nodes = {"multi-queue-num-queues": b"2", "queue-0/ring-ref": b"8", "queue-0/event-channel": b"15",
              "queue-1/ring-ref": b"9", "queue-1/event-channel": b"16"}


def agree(nodes: Nodes, props: Properties = PROPS, machine: str = "x86_64") -> Agreement:
    return read_agreement(nodes.get, props, machine)


def test_one_page_and_one_queue_need_no_number() -> None:
    assert agree(LINUX) == Agreement(7, 51712, "x86_64-abi", (QueueAgreement((8,), 15),))


def test_a_ring_of_several_pages_has_numbered_references() -> None:
    agreement = agree(ORDER2)
    assert agreement.queues == (QueueAgreement((100, 101, 102, 103), 15),)
    assert agreement.ring_page_order == 2


def test_a_ring_page_order_of_zero_still_means_a_numbered_reference() -> None:
    assert agree({**LINUX, "ring-page-order": b"0", "ring-ref0": b"9"}).queues[0].ring_refs == (9,)


def test_without_an_order_a_stale_ring_ref0_is_not_read() -> None:
    assert agree({**LINUX, "ring-ref0": b"9"}).queues[0].ring_refs == (8,)


@pytest.mark.parametrize(("change", "pages"), [
    ({"num-ring-pages": b"4"}, 4), ({"num-ring-pages": b"4", "ring-page-order": None}, 4),
    ({"num-ring-pages": b"1", "ring-page-order": None, "ring-ref": b"8"}, 1)])
def test_the_older_num_ring_pages_is_understood_alone_or_when_it_agrees(change: Nodes, pages: int) -> None:
    assert len(agree(ORDER2 | change).queues[0].ring_refs) == pages


def test_several_queues_have_areas_of_their_own() -> None:
    agreement = agree(TWO, replace(PROPS, max_queues=4))
    assert agreement.queues == (QueueAgreement((8,), 15), QueueAgreement((9,), 16))


def test_one_queue_that_is_counted_is_at_the_top() -> None:
    """Windows always writes multi-queue-num-queues."""
    assert agree({**LINUX, "multi-queue-num-queues": b"1"}) == agree(LINUX)


@pytest.mark.parametrize(("machine", "protocol", "abi"), [
    ("x86_64", b"x86_64-abi", "x86_64-abi"), ("x86_64", b"x86_32-abi", "x86_32-abi"),
    ("x86_64", None, "x86_32-abi"),
    ("i686", None, "x86_32-abi"), ("aarch64", None, "native"), ("aarch64", b"arm-abi", "native")])
def test_an_absent_protocol_means_what_linux_takes_it_for(machine: str, protocol: bytes, abi: str) -> None:
    assert agree({**LINUX, "protocol": protocol}, machine=machine).abi == abi


def test_grants_stay_mapped_if_both_sides_say_so() -> None:
    props = replace(PROPS, persistent=True)
    assert agree({**LINUX, "feature-persistent": b"1"}, props).persistent
    assert not agree({**LINUX, "feature-persistent": b"0"}, props).persistent
    assert not agree(LINUX, props).persistent
    assert not agree({**LINUX, "feature-persistent": b"1"}).persistent


def test_no_page_of_a_guest_stays_mapped_for_direct_io() -> None:
    """XSA-229."""
    props = replace(PROPS, persistent=True, logical_block_size=512)
    assert features.backend_keys(props, FACTS)["feature-persistent"] == b"1"
    assert features.backend_keys(props, replace(FACTS, alignment=512))["feature-persistent"] == b"0"


def test_counting_in_large_sectors_needs_a_frontend_that_says_so() -> None:
    props = replace(PROPS, logical_block_size=4096, large_sector_units="qemu")
    assert agree({**LINUX, "feature-large-sector-size": b"1"}, props).sector_unit == 4096
    with pytest.raises(ProtocolError, match="feature-large-sector-size: found nothing"):
        agree(LINUX, props)


@pytest.mark.parametrize(("change", "words"), [
    # X7
    ({"ring-page-order": b"31"}, f"{FE}/ring-page-order: found '31', expected a number from 0 to 4"),
    ({"ring-page-order": b"4294967296"}, "found '4294967296'"),
    ({"ring-page-order": b"4abc"}, "found '4abc'"),
    ({"ring-page-order": b"-1"}, "found '-1'"), ({"ring-page-order": b""}, "found ''"),
    ({"ring-page-order": b"5"}, "from 0 to 4"),
    # X8
    ({"ring-ref3": None}, f"{FE}/ring-ref3: found nothing, expected a number from 1 to 4294967295"),
    ({"ring-ref0": b"0"}, "ring-ref0: found '0'"),
    ({"ring-ref0": b"4294967296"}, "ring-ref0: found '4294967296'"),
    ({"num-ring-pages": b"8"}, f"{FE}/num-ring-pages: found '8', expected a power of two, equal to"),
    ({"num-ring-pages": b"3", "ring-page-order": None}, "num-ring-pages: found '3'"),
    ({"num-ring-pages": b"32"}, "num-ring-pages: found '32', expected a number from 1 to 16"),
    # X10
    ({"multi-queue-num-queues": b"0"}, f"{FE}/multi-queue-num-queues: found '0', expected .* from 1 to 1"),
    ({"multi-queue-num-queues": b"65535"}, "found '65535'"),
    # X12, X13
    ({"protocol": b"native"}, f"{FE}/protocol: found 'native', expected x86_32-abi or x86_64-abi"),
    ({"protocol": b"x86_64-abi\0"}, r"protocol: found 'x86_64-abi\\x00'"),
    ({"protocol": b"\xff" * 4096}, r"protocol: found '(\\xff){64}'... \(4096 bytes\)"),
    ({"feature-persistent": b"2"}, "feature-persistent: found '2', expected a number from 0 to 1"),
    # V5
    ({"event-channel": b"0"}, f"{FE}/event-channel: found '0', expected a number from 1 to 131071"),
    ({"event-channel": b"2147483648"}, "event-channel: found"),
    ({"event-channel": b"evtchn"}, "found 'evtchn'"),
    ({"event-channel": None}, "event-channel: found nothing"),
])
def test_a_wrong_node_of_a_frontend_is_refused_with_what_was_found(change: Nodes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        agree(ORDER2 | change)


def test_several_queues_without_their_areas_are_refused() -> None:
    with pytest.raises(ProtocolError, match=f"{FE}/queue-1/event-channel: found nothing"):
        agree({**TWO, "queue-1/event-channel": None}, replace(PROPS, max_queues=2))


@pytest.mark.parametrize("value", [
    b"1_000", b" 5", b"5 ", b"+5", b"-0", b"5\n", "\u0665".encode(), b"0x5", b"5\0"])
def test_python_would_take_these_for_numbers_and_we_do_not(value: bytes) -> None:
    with pytest.raises(ProtocolError):
        features.number(value, 0, 1 << 40)


@given(st.binary(max_size=24), st.integers(0, 1 << 33), st.integers(0, 1 << 33))
def test_a_number_is_digits_within_its_range_or_a_protocol_error(value: bytes, low: int, high: int) -> None:
    good = re.fullmatch(rb"[0-9]{1,20}", value) and low <= int(value) <= high
    if good:
        assert features.number(value, low, high) == int(value)
    else:
        with pytest.raises(ProtocolError, match=f"expected a number from {low} to {high}"):
            features.number(value, low, high)


VALUES = st.none() | st.sampled_from([b"0", b"1", b"2", b"4", b"16", b"x86_64-abi"]) | st.binary(max_size=12)


NAMES = [*ORDER2, *TWO, "ring-ref", "num-ring-pages", "feature-persistent"]


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_whatever_a_guest_writes_there_is_an_agreement_or_a_protocol_error(nodes: Nodes) -> None:
    try:
        agreement = agree({**ORDER2, **nodes}, replace(PROPS, max_queues=4))
    except ProtocolError as error:
        assert error.path and error.path.startswith(FE)
    else:
        assert 1 <= len(agreement.queues) <= 4
        assert all(len(queue.ring_refs) in (1, 2, 4, 8, 16) for queue in agreement.queues)


def test_an_agreement_survives_json() -> None:
    for agreement in (agree(ORDER2), agree(TWO, replace(PROPS, max_queues=2))):
        assert Agreement.from_json(json.loads(json.dumps(agreement.to_json()))) == agreement


# --- the names ---

def test_every_node_name_is_written_once() -> None:
    text = Path(features.__file__).read_text()
    names = [value for key, value in vars(features).items()
             if key.isupper() and isinstance(value, str) and not key.startswith("X86") and key != "NATIVE"]
    assert len(names) == len(set(names))
    for name in names:
        assert text.count(f'"{name}"') == 1, name
