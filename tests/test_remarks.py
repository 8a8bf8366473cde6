"""What an administrator should know of a disk that works is said, and nothing of one that is as it looks."""
from dataclasses import replace

from xenvbd import vdev
from xenvbd.properties import DiskFacts, Properties
from xenvbd.remarks import remarks
from xenvbd.target import Target

PROPS = Properties(7, vdev.parse("xvda"), Target("file", "/srv/web 1.img"))
FACTS = DiskFacts(size=1 << 30)


def test_there_is_nothing_to_say_of_a_plain_disk_or_before_it_is_open() -> None:
    assert remarks(PROPS, FACTS) == remarks(PROPS, None) == remarks(None, None) == []


def test_the_format_that_an_image_looks_like_is_named_with_another_way() -> None:
    [told] = remarks(PROPS, replace(FACTS, content="vpc"))
    assert "looks like an image of format vpc and is served raw" in told
    assert "qemu-nbd --connect=/dev/nbd0 --format=vpc '/srv/web 1.img'" in told


def test_an_image_that_is_not_locked_is_said_to_be() -> None:
    [told] = remarks(replace(PROPS, lock=False), FACTS)
    assert "/srv/web 1.img is not locked (lock = off): nothing keeps another from writing to it" in told


def test_persistent_grants_that_direct_io_forbids_are_said_not_to_be_used() -> None:
    wanted = replace(PROPS, persistent=True)
    assert remarks(wanted, FACTS) == []
    [told] = remarks(wanted, replace(FACTS, alignment=512))
    assert "persistent grants are not used" in told and "--no-direct" in told
