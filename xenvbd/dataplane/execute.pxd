"""From a request that has all it needs to one that is finished: what the disk is asked for, and in which order."""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint64_t

from xenvbd.dataplane.arena cimport arena_address
from xenvbd.dataplane.queue cimport Queue
from xenvbd.dataplane.work cimport push, work
from xenvbd.disk.disk cimport DISK_READ, DISK_WRITE, disk_op
from xenvbd.request cimport REQUEST_READ, REQUEST_WRITE
from xenvbd.ring cimport BLKIF_RSP_OKAY, XENVBD_SECTOR_SIZE


cdef inline void finish(Queue q, work *w, int16_t status) noexcept nogil:
    """It is done with, and will be answered with this status."""
    w.status = status
    if w == q.barrier:
        q.barrier = NULL
    push(&q.finished, w)


cdef inline void submit(Queue q, disk_op *op) noexcept nogil:
    q.owned += 1
    q.unstarted += 1
    q.disk.submit(op)


cdef inline void submit_data(Queue q, work *w, uint8_t opcode) noexcept nogil:
    """Read or write the guest's pages, or the buffer: that is one piece, however many segments there are."""
    cdef uint64_t length = <uint64_t>w.plan.sectors * XENVBD_SECTOR_SIZE
    w.op.opcode, w.op.flags = opcode, 0
    if w.nr_vectors:
        w.op.iov, w.op.nr_iov = w.vectors, <uint16_t>w.nr_vectors
    else:
        w.iov.iov_base, w.iov.iov_len = arena_address(q.buffers, w.buffer), length
        w.op.iov, w.op.nr_iov = &w.iov, 1
    w.op.offset = w.slot.request.sector * XENVBD_SECTOR_SIZE
    w.op.length = length
    submit(q, &w.op)


# Begin what is neither a read nor a write.
cdef void execute_other(Queue q, work *w) noexcept nogil


cdef inline void execute(Queue q, work *w) noexcept nogil:
    """Begin: its buffer is filled, if it writes."""
    if w.plan.kind <= REQUEST_WRITE:
        submit_data(q, w, w.plan.kind)
    else:
        execute_other(q, w)


# The disk has done an operation, and it is not a plain success of a read or a write.
cdef void settle_other(Queue q, disk_op *op) noexcept nogil


cdef inline void settle(Queue q, disk_op *op) noexcept nogil:
    """The disk has done an operation."""
    cdef work *w = <work *>op.owner
    q.owned -= 1
    if op.result != 0 or w == NULL or w.plan.kind > REQUEST_WRITE or w.was_held or q.silence:
        settle_other(q, op)
    elif w.plan.kind == REQUEST_READ and w.nr_vectors == 0:
        push(&q.scattering, w)
    else:
        finish(q, w, BLKIF_RSP_OKAY)


# Begin what waited for others: barriers, flushes, discards.
cdef void proceed(Queue q) noexcept nogil
# Try again the writes that there was no room for; or all that is kept.
cdef void retry_held(Queue q) noexcept nogil
cdef void retry_all(Queue q) noexcept nogil
# Another queue's flush failed: be silent too.
cdef void follow_failure(Queue q) noexcept nogil
