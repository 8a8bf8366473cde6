"""A disk that is an open file or block device: what the uring and the threads engine have in common."""
import errno
import os

from xenvbd.disk.atomics cimport load32
from xenvbd.disk.disk cimport Disk
from xenvbd.disk.locks import let_go


cdef class FileDisk(Disk):
    """Owns the descriptor of an Image (xenvbd/disk/image.py), and with it the image's lock, and its fence file's."""

    def __cinit__(self, str target, image, *, unsigned logical_block_size=512, bint discard=True, int guard=-1):
        self.fd, self.guard, self.owned = image.fd, guard, True
        self.target, self.size, self.read_only = target, image.size, image.read_only
        self.direct, self.is_block = image.direct, image.is_block
        self.alignment = image.alignment
        self.logical_block_size = logical_block_size
        self.physical_block_size = max(logical_block_size, image.physical_block_size)
        self.can_discard = discard and image.can_discard
        if image.is_block:              # punches holes in whole blocks of its own; a file anywhere
            self.discard_unit = image.logical_block_size
        self.discard_granularity = max(logical_block_size, image.discard_granularity)
        self.discard_alignment = image.discard_alignment

    def __dealloc__(self):
        # A queue keeps its disk alive, so nothing is attached here.
        self.give_back()

    cpdef close(self):
        """Unlock and close the descriptor.  Raises OSError (EBUSY) while a queue is attached: a number that is reused
        would send a guest's write into another file."""
        if load32(&self.attached) > 0:
            raise OSError(errno.EBUSY, "a queue is still attached", self.target)
        self.give_back()

    cdef give_back(self):
        """The last write has landed.  A worker that is locked down may not unlock; it has no lock that needs it."""
        if not self.owned:
            return
        self.owned = False
        let_go(self.fd)
        if self.guard >= 0:
            os.close(self.guard)
        self.fd, self.guard = -1, -1
