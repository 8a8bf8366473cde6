"""A plane, and the one after it, over the same guest, disk and journals; and a guest that begins its ring anew."""
from __future__ import annotations

import os
import struct

from xenvbd.dataplane import DataPlane
from xenvbd.journal import version_of
from xenvbd.ring import FrontRing

VERSION, SINCE_2, HEADER, NONCE = 8, 204, 4096, slice(20, 36)      # places in the journal, and in the ring's first page
REQ_PROD, RSP_PROD = slice(0, 4), slice(8, 12)


class Succession:
    """journals: a descriptor for each queue, or one."""

    def __init__(self, served, machine, journals, agreement=None) -> None:
        self.served, self.machine = served, machine
        self.journals = [journals] if isinstance(journals, int) else journals
        self.agreement = agreement or served.guest.agreement

    def hand_over(self) -> None:
        self.served.plane.stop_begin(hand_over=True)
        assert self.served.plane.stop(timeout=10)

    def adopt(self) -> DataPlane:
        plane = DataPlane(self.machine.join(0), self.served.disk, name="second")
        try:
            plane.start(self.agreement, self.journals, adopt=True)
        except BaseException:
            plane.destroy()
            raise
        self.served.plane.destroy()
        self.served.plane = plane
        return plane

    def replace(self) -> None:
        self.hand_over()
        self.adopt()


def begin_anew(guest) -> None:
    """The guest's next driver makes its ring in the same page, with the same grant references and port."""
    guest.outstanding.clear()
    guest.ring = FrontRing(guest.ring_pages, guest.abi)


def shared(guest, where: slice) -> bytes:
    return bytes(memoryview(guest.ring_pages)[where])


def set_shared(guest, where: slice, value: int) -> None:
    memoryview(guest.ring_pages)[where] = struct.pack("<I", value)


def make_version_1(*journals: int) -> None:
    """As xenvbd 0.1 keeps a journal."""
    for fd in journals:
        assert version_of(fd)[0] == 2
        os.pwrite(fd, struct.pack("=I", 1), VERSION)
        os.pwrite(fd, bytes(HEADER - SINCE_2), SINCE_2)
