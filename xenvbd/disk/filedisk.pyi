"""Types of filedisk.pyx for mypy."""
from xenvbd.disk.disk import Disk
from xenvbd.disk.image import Image

class FileDisk(Disk):
    fd: int
    guard: int
    direct: bool
    is_block: bool
    def __init__(self, target: str, image: Image, *, logical_block_size: int = 512,
                 discard: bool = True, guard: int = -1) -> None: ...
