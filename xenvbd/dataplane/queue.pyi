# What Python sees of queue.pyx.
from xenvbd.dataplane.device import Device
from xenvbd.dataplane.plane import Agreement
from xenvbd.dataplane.settings import Settings
from xenvbd.disk.disk import Disk
from xenvbd.hv.ops import Hypervisor

STOP: int
ABANDON: int
RESUME: int
HAND_OVER: int

class Queue:
    number: int
    control: int
    entries: int
    anew: bool
    poll_window: int
    persistent: bool
    def __init__(self, number: int, hypervisor: Hypervisor, disk: Disk, device: Device, agreement: Agreement,
                 settings: Settings, image: tuple[int, int], journal_fd: int | None, stats_fd: int | None,
                 channel_fd: int | None, events_fd: int, adopt: bool = ...) -> None: ...
    def close(self) -> None: ...
    def order(self, bits: int) -> None: ...
    def take_events(self) -> tuple[list[tuple[str, int, int]], int]: ...
    def statistics(self) -> bytes: ...
