"""Sizes, durations and rates as people write them, both ways: "20G" <-> 21474836480, "5ms" <-> 0.005."""
from __future__ import annotations

import errno
import re
from fractions import Fraction

from xenvbd.errors import PropertyError

MAX_SIZE = (1 << 63) - 1                # off_t
MAX_DURATION = 1_000_000                # seconds: nanoseconds stay exact in a float

_SIZE_UNITS = {letter: 1 << (10 * power) for power, letter in enumerate("BKMGTPE")}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,18})?)(?:([KMGTPEkmgtpe])(?:iB)?|B)?", re.ASCII)

_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ns|us|ms|s|m|h)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes, 0 to 2^63-1, of "512", "20G", "1.5T", "400MiB"; K to E are powers of 1024.

    PropertyError if it is none."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise PropertyError(errno.EINVAL, f"size {text!r}: expected a number and K, M, G, T, P or E: 20G")
    size = Fraction(match[1]) * _SIZE_UNITS[(match[2] or "B").upper()]
    if size.denominator != 1:
        raise PropertyError(errno.EINVAL, f"size {text!r}: expected a whole number of bytes")
    if size > MAX_SIZE:
        raise PropertyError(errno.ERANGE, f"size {text!r}: expected less than 8E")
    return int(size)


def format_size(size: int) -> str:
    """The shortest exact form: "20G", "1.5T", "1000" (bytes)."""
    for letter, unit in reversed(_SIZE_UNITS.items()):
        if size >= unit > 1 and size * 1000 % unit == 0:
            return _thousandths(size * 1000 // unit) + letter
    return str(size)


def parse_duration(text: str) -> float:
    """Seconds of "8s", "5ms", "1.5h"; 0 to 1000000 s; a bare 0 needs no unit.

    PropertyError if it is none."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if not match:
        raise PropertyError(errno.EINVAL, f"duration {text!r}: expected a number and ns, us, ms, s, m, h: 8s")
    nanoseconds = Fraction(match[1]) * _NANOSECONDS[match[2]]
    if nanoseconds.denominator != 1:
        raise PropertyError(errno.EINVAL, f"duration {text!r}: expected a whole number of nanoseconds")
    if nanoseconds > MAX_DURATION * 10**9:
        raise PropertyError(errno.ERANGE, f"duration {text!r}: expected at most {MAX_DURATION}s")
    return int(nanoseconds) / 10**9


def format_duration(seconds: float) -> str:
    """The form in the largest unit that needs no fraction: "8s", "5ms", "2h"; exact to the nanosecond."""
    nanoseconds = round(seconds * 10**9)
    for unit, factor in reversed(_NANOSECONDS.items()):
        if nanoseconds and nanoseconds % factor == 0:
            return f"{nanoseconds // factor}{unit}"
    return "0s"


def parse_rate(text: str) -> int:
    """Bytes a second of "400MiB", "400M/s"; 0 means no limit.  PropertyError if it is none."""
    return parse_size(text.removesuffix("/s"))


def format_rate(rate: int) -> str:
    """The exact form with its unit: "400M/s"."""
    return format_size(rate) + "/s"


def _thousandths(value: int) -> str:
    """value / 1000 without trailing zeros."""
    whole, fraction = divmod(value, 1000)
    return f"{whole}.{fraction:03}".rstrip("0").rstrip(".")
