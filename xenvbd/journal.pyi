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

VERSION: int
OLDEST: int
NO_NONCE: bytes

def boot_id() -> bytes: ...
def version_of(fd: int) -> tuple[int, str]: ...
def readable(version: int) -> bool: ...
def is_failed(path: str) -> bool: ...
def unanswered(path: str) -> list[int]: ...

class Journal:
    failed: bool
    version: int
    nonce: bytes
    req_cons: int
    rsp_prod: int
    @classmethod
    def create(cls, fd: int | None, identity: Identity, entries: int, index: int = 0,
               nonce: bytes = ...) -> Self: ...
    @classmethod
    def open(cls, fd: int, identity: Identity, entries: int) -> Self: ...
    @staticmethod
    def begun(fd: int) -> bool: ...
    def reconcile(self) -> int: ...
    def pending(self) -> list[Pending]: ...
