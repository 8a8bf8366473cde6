"""Sizes, durations and rates are read strictly, and written so that they read the same."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvbd import units
from xenvbd.errors import PropertyError


@pytest.mark.parametrize(("text", "size"), [
    ("0", 0), ("512", 512), ("512B", 512), ("1K", 1024), ("4k", 4096), ("20G", 20 << 30),
    ("400MiB", 400 << 20), ("1.5T", 3 << 39), ("0.5K", 512), ("7E", 7 << 60),
    ("9223372036854775807", (1 << 63) - 1),
])
def test_a_size_is_in_powers_of_1024(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", [
    "", "G", "-1", "+1", "1 G", " 1", "1\n", "1KB", "1GB", "1_000", "1e3", "0x10",
    ".5K", "1.", "1.0001K", "8E", "99999999999999999999E", "1.000000000000000001E", "\u0661"])
def test_what_is_not_a_size_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(PropertyError, match=r"^size .*: expected") as caught:
        units.parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("size", "text"), [
    (0, "0"), (512, "512"), (20 << 30, "20G"), (3 << 39, "1.5T"), (1000, "1000"), (1536, "1.5K"),
    (1 << 40, "1T"), (100 << 10, "100K"), (9 << 37, "1.125T")])
def test_a_size_is_written_short_and_exact(size: int, text: str) -> None:
    assert units.format_size(size) == text


@given(st.integers(0, units.MAX_SIZE) | st.integers(0, (1 << 13) - 1).map(lambda n: n << 50))
def test_every_size_survives(size: int) -> None:
    assert units.parse_size(units.format_size(size)) == size


@pytest.mark.parametrize(("text", "seconds"), [
    ("8s", 8.0), ("5ms", 0.005), ("0", 0.0), ("0s", 0.0), ("2m", 120.0), ("1.5h", 5400.0), ("10us", 1e-5),
    ("3ns", 3e-9)])
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", [
    "", "8", "s", "-1s", "1 s", "1sec", "0.5ns", "1000001s", "inf", "nan", "1e3s"])
def test_what_is_not_a_duration_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(PropertyError, match=r"^duration .*: expected") as caught:
        units.parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("seconds", "text"), [
    (8.0, "8s"), (0.005, "5ms"), (0.0, "0s"), (120, "2m"), (5400, "90m"), (7200, "2h"), (1e-9, "1ns")])
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@given(st.integers(0, units.MAX_DURATION * 10**9))
def test_every_duration_survives_to_the_nanosecond(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert units.parse_duration(units.format_duration(seconds)) == seconds


@given(st.integers(0, units.MAX_SIZE))
def test_every_rate_survives_with_or_without_its_unit(rate: int) -> None:
    text = units.format_rate(rate)
    assert text.endswith("/s")
    assert units.parse_rate(text) == units.parse_rate(text.removesuffix("/s")) == rate
