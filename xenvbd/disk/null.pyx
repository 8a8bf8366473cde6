"""The null engine (null:SIZE): reads give zeros, writes vanish.  What remains is the cost of all else."""
cimport cython
from libc.stdint cimport uint64_t
from libc.string cimport memset

from xenvbd.disk.disk cimport DISK_READ, Disk, DiskQueue, disk_op, iovec
from xenvbd.disk.inline cimport InlineQueue
from xenvbd.disk.oplist cimport op_list, ops_append
from xenvbd.disk.transfer cimport admit


cdef class NullDisk(Disk):
    """size bytes of nothing."""

    def __cinit__(self, str target, uint64_t size, *, bint read_only=False, unsigned logical_block_size=512,
                  unsigned physical_block_size=4096, bint discard=True):
        self.target, self.engine, self.size, self.read_only = target, "null", size, read_only
        self.logical_block_size, self.physical_block_size = logical_block_size, physical_block_size
        self.alignment = 1
        self.can_discard, self.discard_granularity = discard and not read_only, logical_block_size

    cpdef DiskQueue queue(self, unsigned depth):
        return NullQueue(self)

    cpdef close(self):
        """Nothing to do."""


@cython.final
cdef class NullQueue(InlineQueue):
    """Zeros are written out: a guest must never see what a buffer held before (XSA-318)."""

    cdef void submit(self, disk_op *chain) noexcept nogil:
        cdef op_list done
        done.first = done.last = chain
        while chain != NULL:
            if admit(self.disk, chain) and chain.opcode == DISK_READ:
                zero(chain.iov, chain.iov + chain.nr_iov)
            done.last, chain = chain, chain.next
        ops_append(&self.finished, &done)


cdef inline void zero(iovec *iov, iovec *end) noexcept nogil:
    while iov != end:
        memset(iov.iov_base, 0, iov.iov_len)
        iov += 1
