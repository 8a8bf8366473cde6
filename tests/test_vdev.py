"""Virtual device names and numbers mean the same as in libxl and xen-vbd-interface(7), strictly."""
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd import vdev
from xenvbd.errors import ClaimError, PropertyError


@pytest.mark.parametrize(("text", "number"), [
    ("xvda", 51712), ("xvdb2", 51730), ("xvdp15", 51967), ("d0", 51712), ("d0p0", 51712), ("d1p2", 51730),
    ("xvda16", 1 << 28 | 16), ("xvdq", 1 << 28 | 16 << 8), ("d536p37", 1 << 28 | 536 << 8 | 37),
    ("xvdtq37", 1 << 28 | 536 << 8 | 37), ("d1048575p255", (2 << 28) - 1),
    ("hda", 768), ("hdb63", 3 << 8 | 127), ("hdc2", 22 << 8 | 2), ("hdd", 22 << 8 | 64),
    ("sda", 2048), ("sdb3", 2067), ("sdp15", 8 << 8 | 255),
])
def test_a_name_means_the_number_of_the_interface(text: str, number: int) -> None:
    assert vdev.parse(text).number == number


@pytest.mark.parametrize("text", ["51712", "0xca00", "0XCA00", "0145000"])
def test_a_number_may_be_decimal_hexadecimal_or_octal(text: str) -> None:
    assert vdev.parse(text).number == 51712
    assert vdev.parse(text).name == "xvda"


@pytest.mark.parametrize("text", [
    "", "xvd", "xvda01", "xvda0", "xvda-1", "xvda 1", " xvda", "xvda\n", "xvdA", "xvda1x", "d", "d+1", "d-1",
    "dp1", "d01", "d1p", "d1p01", "d1p1p1", "vda", "hd1", "1_000", "+5", "-5", "0x", "08", "5abc", "\u0661",
    "xvda\u0661",
    "xvd\xe1", "0b1", "1e3", "0xca00 ",
])
def test_what_is_not_a_name_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(PropertyError, match="expected xvda") as caught:
        vdev.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", [
    "xvda256", "xvdzzzzz", "d1048576", "d0p256", "hde", "hda64", "sdq", "sda16"])
def test_a_disk_or_partition_that_does_not_fit_is_refused_with_the_range(text: str) -> None:
    with pytest.raises(PropertyError, match="out of range: expected"):
        vdev.parse(text)


@pytest.mark.parametrize("text", ["536870912", "0x20000000", "4294967296", "99999999999999999"])
def test_the_reserved_numbers_are_refused(text: str) -> None:
    with pytest.raises(PropertyError, match="reserved"):
        vdev.parse(text)


def test_a_negative_number_is_reserved_too() -> None:
    with pytest.raises(PropertyError, match="reserved"):
        vdev.from_number(-1)


@pytest.mark.parametrize(("number", "kind", "disk", "partition"), [
    (33 << 8, "hd", 4, 0), (34 << 8 | 64 | 3, "hd", 7, 3), (91 << 8 | 64, "hd", 19, 0),
    (65 << 8, "sd", 16, 0), (71 << 8 | 0xf1, "sd", 127, 1), (128 << 8, "sd", 128, 0),
    (135 << 8 | 0xff, "sd", 255, 15),
])
def test_the_deprecated_linux_majors_are_understood_but_have_no_name(
        number: int, kind: str, disk: int, partition: int) -> None:
    assert vdev.from_number(number) == vdev.Vdev(number, kind, disk, partition)
    assert vdev.from_number(number).name == str(number)


@pytest.mark.parametrize("number", [0, 1, 3 << 8 | 128, 200 << 8, (1 << 28) - 1])
def test_a_number_that_means_nothing_is_its_own_name(number: int) -> None:
    assert vdev.from_number(number).kind == "number"
    assert str(vdev.from_number(number)) == str(number)


def test_an_extended_number_that_should_be_short_keeps_its_own_name() -> None:
    assert vdev.from_number(1 << 28).disk == 0
    assert vdev.from_number(1 << 28).name == str(1 << 28)


@given(st.integers(0, vdev.RESERVED - 1))
def test_every_number_survives_the_way_to_its_name_and_back(number: int) -> None:
    assert vdev.parse(vdev.from_number(number).name).number == number


LETTERS = st.integers(0, (1 << 20) - 1).map(vdev._letters)
NAMES = st.one_of(
    st.builds("xvd{}{}".format, LETTERS, st.one_of(st.just(""), st.integers(1, 255))),
    st.builds("d{}".format, st.integers(0, (1 << 20) - 1)),
    st.builds("d{}p{}".format, st.integers(0, (1 << 20) - 1), st.integers(1, 255)),
    st.builds("hd{}{}".format, st.sampled_from("abcd"), st.one_of(st.just(""), st.integers(1, 63))),
    st.builds("sd{}{}".format, st.sampled_from("abcdefghijklmnop"), st.integers(1, 15)))


@given(NAMES)
def test_every_name_survives_the_way_to_its_number_and_back(name: str) -> None:
    found = vdev.parse(name)
    assert found.name == name
    again = vdev.from_number(found.number)
    assert (again.disk, again.partition) == (found.disk, found.partition)


@given(st.text(max_size=12))
def test_no_text_raises_anything_but_a_property_error(text: str) -> None:
    with suppress(PropertyError):
        assert 0 <= vdev.parse(text).number < vdev.RESERVED


@pytest.mark.parametrize(("used", "name"), [
    ([], "xvda"), ([51712], "xvdb"), ([768], "xvdb"), ([2048], "xvdb"), ([51712 + 1], "xvdb"),
    ([51712, 51728, 51760], "xvdc"), ([51744], "xvda"), ([1 << 28 | 16 << 8], "xvda"),
    ([1 << 40, -3], "xvda"),
])
def test_the_first_disk_that_no_name_uses_is_free(used: list[int], name: str) -> None:
    assert vdev.free(used).name == name


def test_disk_2_is_not_mistaken_for_disk_0() -> None:
    """QEMU masks the disk with 0x15 instead of 0xf, and takes xvdc for xvda."""
    assert vdev.free([vdev.parse("xvdc").number]).name == "xvda"
    assert vdev.free([vdev.parse("xvda").number, vdev.parse("xvdb").number]).name == "xvdc"


def test_after_the_sixteenth_disk_comes_the_extended_form() -> None:
    assert vdev.free([51712 + 16 * i for i in range(16)]).number == 1 << 28 | 16 << 8


def test_no_free_device_is_an_error() -> None:
    used = [vdev.parse(f"d{i}").number for i in range(vdev.AUTOMATIC_DISKS)]
    assert vdev.free(used[:-1]).name == "xvdfan"
    with pytest.raises(ClaimError, match="all of 4096"):
        vdev.free(used)
