"""A disk that could not work is refused before the guest sees it: what is wrong, why, what to say instead."""
import errno
from dataclasses import replace
from types import SimpleNamespace

import pytest

from xenvbd import vdev
from xenvbd.errors import PropertyError
from xenvbd.properties import DiskFacts, Properties, validate
from xenvbd.target import Target

PROPS = Properties(7, vdev.parse("xvda"), Target("file", "/srv/d.img"))
FACTS = DiskFacts(size=1 << 30)


def test_a_plain_disk_is_good() -> None:
    validate(PROPS, FACTS)


@pytest.mark.parametrize("change", [
    {"logical_block_size": 4096, "physical_block_size": 4096},
    {"discard_granularity": 1 << 20}, {"max_ring_page_order": 0}, {"max_queues": 16}, {"max_indirect": 0},
    {"mode": "r"}, {"device_type": "cdrom"}, {"large_sector_units": "qemu"}, {"domid": 0}, {"domid": 0x7fef}])
def test_every_property_may_go_to_its_bounds(change: dict[str, object]) -> None:
    validate(replace(PROPS, **change), FACTS)


@pytest.mark.parametrize(("change", "words"), [
    ({"domid": 0x7ff0}, "domid 32752 is no guest's: expected 0 to 32751"), ({"domid": -1}, "domid -1"),
    ({"mode": "x"}, "mode 'x': expected r or w"),
    ({"device_type": "floppy"}, "device-type 'floppy': expected disk or cdrom"),
    ({"large_sector_units": "x"}, "large-sector-units 'x': expected spec or qemu"),
    ({"logical_block_size": 256}, "logical-block-size 256: expected a power of two from 512 to 4096"),
    ({"logical_block_size": 1000}, "logical-block-size 1000: expected a power"),
    ({"logical_block_size": 8192}, "logical-block-size 8192: expected a power"),
    ({"physical_block_size": 768}, "physical-block-size 768: expected a power of two from 512 to 2097152"),
    ({"logical_block_size": 4096, "physical_block_size": 512}, "4096 is larger than physical-block-size 512"),
    ({"discard_granularity": 100}, "discard-granularity 100: expected a multiple of the logical-block-size 512"),
    ({"discard_granularity": 1 << 32}, "below 4 GiB"), ({"discard_granularity": -512}, "discard-granularity -512"),
    ({"discard_granularity": 512, "discard_enable": False}, "discard-granularity 512 has no meaning without discard"),
    ({"max_ring_page_order": 5}, "max-ring-page-order 5 is out of range: expected 0 to 4"),
    ({"max_queues": 0}, "max-queues 0 is out of range: expected 1 to 16"),
    ({"max_indirect": 257}, "max-indirect-segments 257 is out of range"),
])
def test_a_wrong_property_is_named_with_what_was_expected(change: dict[str, object], words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        validate(replace(PROPS, **change), FACTS)


@pytest.mark.parametrize("device_type", ["disk", "cdrom"])
def test_a_drive_without_a_medium_is_refused(device_type: str) -> None:
    with pytest.raises(PropertyError, match=f"the {device_type} has no medium") as caught:
        validate(replace(PROPS, target=None, device_type=device_type), FACTS)
    assert caught.value.errno == errno.ENOMEDIUM


@pytest.mark.parametrize(("facts", "change", "words"), [
    ({"size": 0}, {}, "/srv/d.img is empty"),
    ({"size": 1000}, {}, "1000 bytes: expected a multiple of the logical-block-size 512"),
    ({"size": 1000, "content": "qcow2"}, {}, "1000 bytes: .* looks like an image of format qcow2: run `qemu-nbd"),
    ({"size": 512 * 9}, {"logical_block_size": 4096}, "4608 bytes: expected a multiple of the logical"),
    ({"size": 512 * 9}, {"physical_block_size": 4096}, "4608 bytes: expected a multiple of the physical"),
    ({"alignment": 4096}, {}, "512 is below the 4096 bytes .* expected logical-block-size 4096 .--sector-size."),
    ({"read_only": True}, {}, "mode w, but target /srv/d.img is read-only: attach it read-only .--ro"),
])
def test_a_target_that_does_not_fit_is_refused(facts: dict[str, object], change: dict[str, object],
                                               words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        validate(replace(PROPS, **change), replace(FACTS, **facts))


@pytest.mark.parametrize("change", [{"mode": "r"}, {"device_type": "cdrom"}])
def test_a_read_only_target_serves_read_only_devices(change: dict[str, object]) -> None:
    validate(replace(PROPS, **change), replace(FACTS, read_only=True))


def test_the_facts_of_a_disk_are_its_attributes() -> None:
    disk = SimpleNamespace(size=1024, read_only=True, logical_block_size=512, physical_block_size=4096,
                           alignment=1, can_discard=False, discard_granularity=0, discard_alignment=0,
                           engine="x")
    assert DiskFacts.of(disk) == DiskFacts(1024, read_only=True, physical_block_size=4096)


def test_sectors_are_512_bytes_unless_the_guest_is_known_to_count_as_qemu_does() -> None:
    large = replace(PROPS, logical_block_size=4096)
    assert (PROPS.sector_unit, large.sector_unit) == (512, 512)
    assert replace(large, large_sector_units="qemu").sector_unit == 4096
