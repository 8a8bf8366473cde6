"""Hostile cases X: what a frontend writes into its area of xenstore (XSA-175, XSA-349)."""
import pytest

from xenvbd import target, vdev
from xenvbd.errors import ProtocolError
from xenvbd.features import read_agreement, read_properties
from xenvbd.properties import Properties
from xenvbd.xenbus import XenbusState, parse_state

PROPERTIES = Properties(domid=3, vdev=vdev.parse("xvda"), target=target.parse("/srv/a.img"), max_queues=4)
GOOD = {"ring-ref": b"8", "event-channel": b"15", "protocol": b"x86_64-abi"}


def refused(changes: dict[str, bytes], name: str) -> None:
    """These nodes are refused, and the message names the one that is wrong, printably."""
    area = {key: value for key, value in (GOOD | changes).items() if value}
    with pytest.raises(ProtocolError) as caught:
        read_agreement(area.get, PROPERTIES)
    assert name in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("order", [b"31", b"5", b"4294967296", b"4abc", b"-1", b" 1", b"+1", b"1_0", b"0x1",
                                   "\u0661".encode()])
def test_X7_a_ring_order_that_is_none_or_too_large(order: bytes) -> None:
    refused({"ring-page-order": order, "ring-ref0": b"8"}, "ring-page-order")


def test_X8_a_ring_that_lacks_a_page() -> None:
    refused({"ring-page-order": b"2", "ring-ref0": b"8", "ring-ref1": b"9", "ring-ref2": b"10"}, "ring-ref3")


@pytest.mark.parametrize("count", [b"0", b"5", b"65535", b"-1", b"two"])
def test_X10_no_queues_or_more_than_there_may_be(count: bytes) -> None:
    refused({"multi-queue-num-queues": count}, "multi-queue-num-queues")


@pytest.mark.parametrize("protocol", [b"ppc-abi", b"x86_64", b"X86_64-ABI", b"native", b"x86_64-abi\0"])
def test_X12_a_protocol_that_nobody_knows_is_not_taken_for_another(protocol: bytes) -> None:
    refused({"protocol": protocol}, "protocol")


@pytest.mark.parametrize("value", [b"9" * 4096, b"\xff\xfe", b"8\0", b"8\n", b"\x1b[31m8", b"\xc3\xa9"])
@pytest.mark.parametrize("name", ["ring-ref", "event-channel"])
def test_X13_values_that_are_long_binary_or_escapes(name: str, value: bytes) -> None:
    refused({name: value}, name)


@pytest.mark.parametrize("value", [b"0", b"99", b"four", b"", b"4 ", b"\xff", b"4" * 4096])
def test_X16_a_state_that_is_none(value: bytes) -> None:
    assert parse_state(value) is XenbusState.UNKNOWN


def test_X2_X3_what_a_frontend_says_of_its_backend_or_target_is_not_read() -> None:
    """Only these names are asked for in its area; none says what is served."""
    asked = []

    def get(name: str) -> bytes | None:
        asked.append(name)
        return GOOD.get(name)

    read_agreement(get, PROPERTIES)
    assert not {"backend", "backend-id", "params", "mode", "type", "sectors", "device-type"} & set(asked)


@pytest.mark.parametrize("path", [b"/local/domain/1/device/vbd/51712", b"/local/domain/3/device/vbd/51728", b"/",
                                  b"/local/domain/3/device/vbd/51712/", b"/local/domain/03/device/vbd/51712"])
def test_X1_a_frontend_path_that_is_not_this_guest_s(path: bytes) -> None:
    area = {"frontend": path, "frontend-id": b"3", "params": b"aio:/srv/a.img", "mode": b"w"}
    with pytest.raises(OSError, match="frontend"):
        read_properties(area.get, 0, "qdisk", 3, 51712)
