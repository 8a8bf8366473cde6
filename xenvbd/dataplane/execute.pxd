"""From a request that has all it needs to one that is finished: what the disk is asked for, and in which order."""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint64_t

from xenvbd.dataplane.arena cimport arena_address
from xenvbd.dataplane.queue cimport Queue
from xenvbd.dataplane.work cimport WAY_ANSWER, WAY_SCATTER, push, work
from xenvbd.disk.disk cimport DISK_READ, DISK_WRITE, disk_op
from xenvbd.disk.oplist cimport chain_add
from xenvbd.request cimport REQUEST_READ, REQUEST_WRITE
from xenvbd.ring cimport XENVBD_SECTOR_SIZE


cdef inline void finish(Queue q, work *w, int16_t status) noexcept nogil:
    """It is done with, and will be answered with this status."""
    w.status = status
    if w == q.barrier:
        q.barrier = NULL
    push(&q.finished, w)


cdef inline void submit(Queue q, disk_op *op) noexcept nogil:
    """Into the chain that the disk gets next."""
    q.owned += 1
    chain_add(&q.ready, op)


cdef inline void submit_vectors(Queue q, work *w, uint8_t opcode, uint16_t nr_vectors) noexcept nogil:
    """Read or write what the work's first vectors name."""
    w.op.opcode, w.op.flags, w.op.nr_iov = opcode, 0, nr_vectors
    w.op.offset = w.slot.request.sector * XENVBD_SECTOR_SIZE
    w.op.length = <uint64_t>w.plan.sectors * XENVBD_SECTOR_SIZE
    submit(q, &w.op)


cdef inline void submit_data(Queue q, work *w, uint8_t opcode) noexcept nogil:
    """Read or write the guest's pages, or the buffer: that is one piece, however many segments there are."""
    if w.nr_vectors:
        submit_vectors(q, w, opcode, <uint16_t>w.nr_vectors)
        return
    w.op.buffer = 0
    w.vectors.iov_base = arena_address(q.buffers, w.buffer)
    w.vectors.iov_len = <uint64_t>w.plan.sectors * XENVBD_SECTOR_SIZE
    submit_vectors(q, w, opcode, 1)


# Begin what is neither a read nor a write.
cdef void execute_other(Queue q, work *w) noexcept nogil


cdef inline void execute(Queue q, work *w) noexcept nogil:
    """Begin: its buffer is filled, if it writes."""
    if w.plan.kind > REQUEST_WRITE:
        execute_other(q, w)
        return
    w.way = WAY_SCATTER if w.plan.kind == REQUEST_READ and w.nr_vectors == 0 else WAY_ANSWER
    submit_data(q, w, w.plan.kind)


# The disk has done an operation, and it is not a plain success of a read or a write.
cdef void settle_other(Queue q, disk_op *op) noexcept nogil
# Begin what waited for others: barriers, flushes, discards.
cdef void proceed(Queue q) noexcept nogil
# Try again the writes that there was no room for; or all that is kept.
cdef void retry_held(Queue q) noexcept nogil
cdef void retry_all(Queue q) noexcept nogil
# Another queue's flush failed: be silent too.
cdef void follow_failure(Queue q) noexcept nogil
