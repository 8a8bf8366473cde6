# What Python sees of queue.pyx.
from typing import NamedTuple

from xenvbd.frontend.oracle import OracleError
from xenvbd.hv.grant import Shared
from xenvbd.hv.ops import Hypervisor
from xenvbd.ring import Request

class Response(NamedTuple):
    id: int
    operation: int
    status: int

class Peer: ...

class FrontQueue:
    domid: int
    port: int
    entries: int
    abi: str
    fresh_grants: bool
    anonymous: bool
    always_indirect: bool
    spin: bool
    max_segments: int
    handle: int
    number_shift: int
    segment_shift: int
    events_in: int
    events_out: int
    wakeups: int
    pushes: int
    refs: tuple[int, ...]
    ring_memory: memoryview
    entry_size: int
    outstanding: list[int]
    req_prod: int
    def __init__(self, hypervisor: Hypervisor, domid: int, order: int = 0, abi: str = "native", pages: int = 256,
                 fresh_grants: bool = False, index: int = 0) -> None: ...
    def reserve(self, pages: int) -> None: ...
    def share(self, count: int, writable: bool = True) -> Shared: ...
    def attach(self, peer: Peer | None) -> None: ...
    def notify_backend(self) -> None: ...
    def execute(self, operation: int, sector: int, sectors: int, data: bytes | None = None, timeout: float = 30,
                skew: int = 0, flag: int = 0) -> tuple[int, bytes | None]: ...
    def raw(self, request: Request, answer: int | None = None) -> int: ...
    def raw_bytes(self, entry: bytes, id: int, answer: int) -> int: ...
    def publish(self, req_prod: int | None = None, notify: bool | None = None) -> None: ...
    def responses(self, count: int | None = None, timeout: float = 10) -> list[Response]: ...
    def drain(self, timeout: float = 30) -> None: ...
    def close(self) -> None: ...
    def fault(self) -> OracleError | None: ...
