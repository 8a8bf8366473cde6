"""Types of threads.pyx for mypy."""
from xenvbd.disk.filedisk import FileDisk

class ThreadsDisk(FileDisk):
    threads: int
