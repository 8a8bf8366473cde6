"""Types of uring.pyx for mypy."""
from xenvbd.disk.filedisk import FileDisk

class UringDisk(FileDisk):
    inline_reads: bool
    inline_writes: bool
