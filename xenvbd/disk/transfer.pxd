"""How an operation becomes system calls, and what their results mean: the one place for every engine."""
from libc.errno cimport EINVAL, EOPNOTSUPP, EROFS
from libc.stdint cimport int64_t, uint64_t

from xenvbd.disk.disk cimport DISK_DISCARD, DISK_FLUSH, DISK_READ, DISK_WRITE, Disk, disk_op, iovec


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


cdef inline bint admit(Disk disk, disk_op *op) noexcept nogil:
    """Reset the engine's fields.  1: the engine is to do it; 0: there is nothing to do, op.result is set.

    The data plane has checked all this against what it advertised; an engine checks it against the file, for
    a write past the end would make it grow.
    """
    op.done = op.tries = op.state = 0
    op.result = 0
    if op.opcode == DISK_FLUSH:
        return 1
    if op.offset > disk.size or op.length > disk.size - op.offset:
        op.result = -EINVAL
    elif op.opcode == DISK_READ:
        pass
    elif disk.read_only:
        op.result = -EROFS
    elif op.opcode != DISK_WRITE and (op.opcode != DISK_DISCARD or not disk.can_discard):
        op.result = -EOPNOTSUPP
    return op.result == 0 and op.length > 0


cdef void later_attempt(disk_op *op, attempt *call) noexcept nogil


cdef inline void next_attempt(disk_op *op, attempt *call) noexcept nogil:
    """What is left to ask for."""
    if op.done or op.opcode > DISK_WRITE:
        later_attempt(op, call)
        return
    call.offset, call.length, call.iov, call.nr_iov = op.offset, op.length, op.iov, op.nr_iov


cdef bint account(disk_op *op, uint64_t asked, int64_t got) noexcept nogil
cdef int perform(int fd, disk_op *op) noexcept nogil
