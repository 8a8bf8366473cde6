"""Disks: engines (uring, threads, memory, null) and filters, all of them Disks; open() chooses the engine."""
from xenvbd.disk.disk import Disk, DiskQueue
from xenvbd.disk.image import Image, open_image
from xenvbd.disk.opener import ENGINES, choose, open

__all__ = ["ENGINES", "Disk", "DiskQueue", "Image", "choose", "open", "open_image"]
