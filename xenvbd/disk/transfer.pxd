"""How an operation becomes system calls, and what their results mean: the one place for every engine."""
from libc.stdint cimport int64_t, uint64_t

from xenvbd.disk.disk cimport Disk, disk_op, iovec


cdef enum:
    # A discard goes in pieces, a few at a time: one of a whole disk would keep a kernel worker for seconds.
    DISCARD_PIECE = 64 << 20
    DISCARDS_IN_FLIGHT = 4


cdef struct attempt:
    # What the next system call of an operation has to ask for.
    uint64_t offset
    uint64_t length
    iovec *iov
    int nr_iov
    iovec rest              # where iov points when the last call ended inside an iovec


cdef int admit(Disk disk, disk_op *op) noexcept nogil
cdef void next_attempt(disk_op *op, attempt *call) noexcept nogil
cdef bint account(disk_op *op, uint64_t asked, int64_t got) noexcept nogil
cdef int perform(int fd, disk_op *op) noexcept nogil
