"""Virtual device names and numbers, both ways: xvda <-> 51712 (xen-vbd-interface(7)).

Names are xvdX[N], hdX[N], sdX[N], dN and dNpM, or the number itself in decimal, hexadecimal or octal as libxl
takes it.  Parsing is strict: no sign, no space, no leading zero in a partition, nothing that overflows."""
from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass

from xenvbd.errors import ClaimError, PropertyError

EXTENDED = 1 << 28          # the form with 20 bits of disk and 8 of partition
RESERVED = 2 << 28          # this and everything above is kept for later versions of the interface
AUTOMATIC_DISKS = 4096      # free() chooses among xvda..xvdfan, as QEMU does

_LETTERS = re.compile(r"(xvd|hd|sd)([a-z]{1,5})([1-9][0-9]{0,2})?", re.ASCII)
_DISK = re.compile(r"d(0|[1-9][0-9]{0,6})(?:p(0|[1-9][0-9]{0,2}))?", re.ASCII)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|0[0-7]{0,16}|[1-9][0-9]{0,16}", re.ASCII)
_FORMS = "xvda, xvda1, hda, sda, d0, d0p1 or a number"

# Block majors: (first disk, bits of the partition, disks of this major).  The deprecated ones are Linux's.
_IDE = {3: 0, 22: 2, 33: 4, 34: 6, 56: 8, 57: 10, 88: 12, 89: 14, 90: 16, 91: 18}
_SCSI = {8: 0} | {65 + i: 16 * (i + 1) for i in range(7)} | {128 + i: 16 * (i + 8) for i in range(8)}
_MAJORS = ({major: ("hd", first, 6, 2) for major, first in _IDE.items()}
           | {major: ("sd", first, 4, 16) for major, first in _SCSI.items()}
           | {202: ("xvd", 0, 4, 16)})


@dataclass(frozen=True)
class Vdev:
    """One virtual device: its number in xenstore, and what the number means.

    kind is "xvd", "hd", "sd", "d" (xvd written as dNpM), or "number" for a number below 1 << 28 that means
    nothing (reserved, but toolstacks use them).  disk counts from 0; partition 0 is the whole disk."""

    number: int
    kind: str
    disk: int
    partition: int

    @property
    def name(self) -> str:
        """A name that parse() takes and that gives this number again.

        Deprecated and non-canonical numbers have none but themselves."""
        if self.kind == "number" or _encode(self.kind, self.disk, self.partition) != self.number:
            return str(self.number)
        if self.kind == "d":
            return f"d{self.disk}p{self.partition}" if self.partition else f"d{self.disk}"
        return self.kind + _letters(self.disk) + (str(self.partition) if self.partition else "")

    def __str__(self) -> str:
        return self.name


def parse(text: str) -> Vdev:
    """The device that a name or a number in text form means; PropertyError says what is wrong with it."""
    if match := _LETTERS.fullmatch(text):
        return _named(text, match[1], _index(match[2]), int(match[3] or 0))
    if match := _DISK.fullmatch(text):
        return _named(text, "d", int(match[1]), int(match[2] or 0))
    if _NUMBER.fullmatch(text):
        octal = text[0] == "0" and text[1:2] not in ("x", "X", "")
        return from_number(int(text, 8) if octal else int(text, 0))
    raise PropertyError(errno.EINVAL, f"vdev {text!r} is not a virtual device: expected {_FORMS}")


def from_number(number: int) -> Vdev:
    """What a number means, deprecated Linux majors included; PropertyError if it is reserved."""
    if not 0 <= number < RESERVED:
        raise PropertyError(errno.EINVAL, f"vdev {number} is reserved: expected 0 to {RESERVED - 1}")
    if number >= EXTENDED:
        return Vdev(number, "xvd", (number - EXTENDED) >> 8, number & 0xff)
    kind, first, bits, disks = _MAJORS.get(number >> 8, ("number", 0, 0, 0))
    disk = (number & 0xff) >> bits
    if disk >= disks:
        return Vdev(number, "number", number, 0)
    return Vdev(number, kind, first + disk, number & ((1 << bits) - 1))


def free(used: Iterable[int]) -> Vdev:
    """The first xvd whose disk none of the numbers in use means, be it as hd, sd or xvd.

    Guests may map all three to one name.  ClaimError if all 4096 are taken."""
    taken = {from_number(number).disk for number in used if 0 <= number < RESERVED}
    for disk in range(AUTOMATIC_DISKS):
        if disk not in taken:
            return _named("", "xvd", disk, 0)
    raise ClaimError(errno.ENOSPC, f"no free vdev: all of {AUTOMATIC_DISKS} are in use")


def _named(text: str, kind: str, disk: int, partition: int) -> Vdev:
    number = _encode(kind, disk, partition)
    if number is None:
        raise PropertyError(errno.ERANGE, f"vdev {text!r} is out of range: expected {_RANGES[kind]}")
    return Vdev(number, kind, disk, partition)


_RANGES = {"xvd": "a disk below 2^20 and a partition up to 255",
           "d": "a disk below 2^20 and a partition up to 255",
           "hd": "hda to hdd and a partition up to 63",
           "sd": "sda to sdp and a partition up to 15"}


def _encode(kind: str, disk: int, partition: int) -> int | None:
    """The canonical number (the 1 << 28 form only where 202 << 8 has not enough bits), or None."""
    if kind == "hd":
        major = 3 if disk < 2 else 22
        return major << 8 | (disk & 1) << 6 | partition if disk < 4 and partition < 64 else None
    if disk < 16 and partition < 16:
        return (8 if kind == "sd" else 202) << 8 | disk << 4 | partition
    if kind != "sd" and disk < 1 << 20 and partition < 256:
        return EXTENDED | disk << 8 | partition
    return None


def _letters(disk: int) -> str:
    """Disk 0 is a, 25 z, 26 aa: base 26 without a zero."""
    text = ""
    disk += 1
    while disk:
        disk, digit = divmod(disk - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _index(letters: str) -> int:
    disk = 0
    for letter in letters:
        disk = disk * 26 + ord(letter) - ord("a") + 1
    return disk - 1
