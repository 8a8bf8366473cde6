"""Types of disk.pyx for mypy."""

class DiskQueue: ...

class Disk:
    target: str
    engine: str
    size: int
    read_only: bool
    logical_block_size: int
    physical_block_size: int
    alignment: int
    can_discard: bool
    discard_unit: int
    discard_granularity: int
    discard_alignment: int
    def queue(self, depth: int) -> DiskQueue: ...
    def close(self) -> None: ...
