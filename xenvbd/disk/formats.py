"""Which image format the bytes of a target look like, for a warning and nothing else.

What is in an image decides nothing: it is raw, and served raw (CVE-2008-2004).  But whoever attaches a qcow2 file did
hardly mean that the guest should see its header.
"""
from __future__ import annotations

import contextlib
import mmap
import os
import struct

PAGE = 4096                     # what direct I/O can read of any target
SECTOR = 512

_BEGINNINGS = (
    (b"QED\0", "qed"), (b"KDMV", "vmdk"), (b"COWD", "vmdk"), (b"# Disk DescriptorFile", "vmdk"),
    (b"vhdxfile", "vhdx"), (b"conectix", "vpc"), (b"WithoutFreeSpace", "parallels"), (b"WithouFreSpacExt", "parallels"))
_QCOW = {1: "qcow", 2: "qcow2", 3: "qcow2"}
_VDI_AT, _VDI = 64, 0xBEDA107F


def looks_like(fd: int, size: int) -> str:
    """QEMU's name of the format that a target of so many bytes looks like; empty if it looks raw, or cannot be read.

    Waits for storage.  fd may be open for direct I/O."""
    with contextlib.suppress(OSError):
        return _by_beginning(_read(fd, 0)) or _by_end(fd, size)
    return ""


def _by_beginning(data: bytes) -> str:
    if data.startswith(b"QFI\xfb") and len(data) >= 8:
        return _QCOW.get(struct.unpack_from(">I", data, 4)[0], "")
    if len(data) >= _VDI_AT + 4 and struct.unpack_from("<I", data, _VDI_AT)[0] == _VDI:
        return "vdi"
    return next((name for magic, name in _BEGINNINGS if data.startswith(magic)), "")


def _by_end(fd: int, size: int) -> str:
    """A VHD of fixed size has nothing but a footer, in its last sector."""
    footer = size - SECTOR
    if footer < 0:
        return ""
    page = footer - footer % PAGE
    return "vpc" if _read(fd, page)[footer - page:].startswith(b"conectix") else ""


def _read(fd: int, offset: int) -> bytes:
    with mmap.mmap(-1, PAGE) as buffer:         # its address is a page's, as direct I/O wants it
        return buffer[:os.preadv(fd, [buffer], offset)]
