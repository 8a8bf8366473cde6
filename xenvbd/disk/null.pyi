"""Types of null.pyx for mypy."""
from xenvbd.disk.disk import Disk

class NullDisk(Disk):
    def __init__(self, target: str, size: int, *, read_only: bool = False, logical_block_size: int = 512,
                 physical_block_size: int = 4096, discard: bool = True) -> None: ...
