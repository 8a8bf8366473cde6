# What Python sees of journal.pyx.
from typing import NamedTuple, Self

from xenvbd.ring import Request

class Identity(NamedTuple):
    domid: int
    devid: int
    queue: int
    evtchn: int
    abi: int
    ring_refs: tuple[int, ...]
    image_dev: int = 0
    image_ino: int = 0
    capacity: int = 0

class Pending(NamedTuple):
    idx: int
    answered: bool
    rsp_idx: int
    request: Request

def boot_id() -> bytes: ...

class Journal:
    failed: bool
    req_cons: int
    rsp_prod: int
    @classmethod
    def create(cls, fd: int | None, identity: Identity, entries: int, index: int = 0) -> Self: ...
    @classmethod
    def open(cls, fd: int, identity: Identity, entries: int) -> Self: ...
    def pending(self) -> list[Pending]: ...
