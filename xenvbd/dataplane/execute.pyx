"""The order of things.

A FLUSH promises every write answered before it: one fdatasync that starts after it was consumed will do, and
flushes that wait share the next one.  A flush with data is a flush and then a write.  A WRITE_BARRIER drains,
flushes, writes, flushes, and lets nothing be consumed meanwhile (blkif.h).

A failed flush is never answered (Linux takes the error for success and stops flushing), and neither is anything
after it.  A write without room (ENOSPC) is kept and tried again.  Any other failure is the request's own.
"""
from libc.errno cimport EDQUOT, ENOSPC, EOPNOTSUPP
from libc.stdint cimport uint64_t

from xenvbd.dataplane.device cimport device_fail, device_give_flush, device_take_flush
from xenvbd.dataplane.events cimport EVENT_FLUSH_FAILED, EVENT_IO_ERROR, EVENT_NO_SPACE, EVENT_RESUMED, event_post
from xenvbd.dataplane.queue cimport SILENT_FAILED
from xenvbd.dataplane.tally cimport XENVBD_STOP_FLUSH, XENVBD_STOP_NONE, XENVBD_STOP_NOSPC, now_ns
from xenvbd.dataplane.work cimport (
    WORK_DATA,
    WORK_DRAINING,
    WORK_FIRST,
    WORK_LAST,
    pop,
    push,
    take_all,
    work_list,
)
from xenvbd.disk.disk cimport DISK_DISCARD, DISK_FLUSH, DISK_WRITE
from xenvbd.request cimport REQUEST_BARRIER, REQUEST_DISCARD, REQUEST_READ
from xenvbd.ring cimport BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, XENVBD_SECTOR_SIZE

cdef enum:
    DISCARD_SECTORS = (256 << 20) // 512        # of one operation: a file system may hold its locks that long
    RETRY_NS = 1000000000


cdef void execute_other(Queue q, work *w) noexcept nogil:
    if w.plan.kind == REQUEST_DISCARD:
        w.discarded = 0
        push(&q.discards, w)
    elif w.plan.kind == REQUEST_BARRIER:
        w.stage = WORK_DRAINING
    else:
        w.stage = WORK_FIRST
        push(&q.flush_waiting, w)


# What waits for others

cdef void start_flush(Queue q) noexcept nogil:
    if q.flush_running or q.flush_waiting.first == NULL or not device_take_flush(q.device):
        return
    q.flushing = take_all(&q.flush_waiting)
    q.flush_running = True
    q.flush.opcode, q.flush.flags, q.flush.nr_iov = DISK_FLUSH, 0, 0
    q.flush.offset = q.flush.length = 0
    submit(q, &q.flush)


cdef void start_discard(Queue q, work *w) noexcept nogil:
    cdef uint64_t left = w.slot.request.u.nr_sectors - w.discarded
    q.discards_running += 1
    w.op.opcode, w.op.flags, w.op.nr_iov = DISK_DISCARD, 0, 0
    w.op.offset = (w.slot.request.sector + w.discarded) * XENVBD_SECTOR_SIZE
    w.op.length = min(left, <uint64_t>DISCARD_SECTORS) * XENVBD_SECTOR_SIZE
    submit(q, &w.op)


cdef void start_discards(Queue q) noexcept nogil:
    cdef work *w
    while q.discards.first != NULL and q.discards_running < q.discards_allowed:
        w = pop(&q.discards)
        if w.slot.request.u.nr_sectors == 0:
            finish(q, w, BLKIF_RSP_OKAY)
        else:
            start_discard(q, w)


cdef void proceed(Queue q) noexcept nogil:
    if q.barrier != NULL and q.barrier.stage == WORK_DRAINING and q.live == 1:
        q.barrier.stage = WORK_FIRST
        push(&q.flush_waiting, q.barrier)
    if q.discards.first != NULL:
        start_discards(q)
    start_flush(q)


# What comes back

cdef void hold(Queue q, work *w, int error) noexcept nogil:
    """Keep a write that there was no room for."""
    if not w.was_held:
        w.was_held = True
        q.nr_held += 1
        if q.nr_held == 1:
            q.stats.stopped = XENVBD_STOP_NOSPC
            event_post(&q.events, EVENT_NO_SPACE, error, w.slot.request.sector)
    if q.held.first == NULL:
        q.retry_at = now_ns() + RETRY_NS
    push(&q.held, w)


cdef void let_go(Queue q, work *w) noexcept nogil:
    """A write that was held has ended, one way or the other."""
    w.was_held = False
    q.nr_held -= 1
    if q.nr_held == 0 and q.stats.stopped == XENVBD_STOP_NOSPC:
        q.stats.stopped = XENVBD_STOP_NONE
        event_post(&q.events, EVENT_RESUMED, 0, 0)


cdef void retry_held(Queue q) noexcept nogil:
    cdef work_list held = take_all(&q.held)
    cdef work *w = pop(&held)
    while w != NULL:
        submit_data(q, w, DISK_WRITE)
        w = pop(&held)


cdef void fault(Queue q, work *w, int error) noexcept nogil:
    """An operation failed.  At the end of the ring, a write without room is an error like any other."""
    if w.op.opcode == DISK_WRITE and (error == ENOSPC or error == EDQUOT) and (q.handing_over or not q.stopping):
        hold(q, w, error)
        return
    if w.was_held:
        let_go(q, w)
    if w.op.opcode == DISK_DISCARD and error == EOPNOTSUPP:
        finish(q, w, BLKIF_RSP_EOPNOTSUPP)
        return
    event_post(&q.events, EVENT_IO_ERROR, error, w.slot.request.sector)
    finish(q, w, BLKIF_RSP_ERROR)


cdef void advance(Queue q, work *w) noexcept nogil:
    """An operation of the request succeeded: the next step."""
    if w.was_held:
        let_go(q, w)
    if w.plan.kind == REQUEST_READ and w.nr_vectors == 0:
        push(&q.scattering, w)
    elif w.plan.kind == REQUEST_DISCARD and w.discarded < w.slot.request.u.nr_sectors:
        push(&q.discards, w)
    elif w.plan.kind == REQUEST_BARRIER:
        w.stage = WORK_LAST
        push(&q.flush_waiting, w)
    else:
        finish(q, w, BLKIF_RSP_OKAY)


cdef void flushed(Queue q, work *w) noexcept nogil:
    """The flush that the request waited for is done."""
    if w.stage == WORK_FIRST and w.plan.sectors:
        w.stage = WORK_DATA
        submit_data(q, w, DISK_WRITE)
    else:
        finish(q, w, BLKIF_RSP_OKAY)


cdef void flush_failed(Queue q, int error) noexcept nogil:
    """For good: the kernel may forget the error and what it was about, a later fdatasync would prove nothing."""
    device_fail(q.device)
    follow_failure(q)
    event_post(&q.events, EVENT_FLUSH_FAILED, error, 0)


cdef void follow_failure(Queue q) noexcept nogil:
    q.silence = SILENT_FAILED
    q.stats.stopped = XENVBD_STOP_FLUSH


cdef void settle_flush(Queue q) noexcept nogil:
    cdef work *w
    q.flush_running = False
    if q.flush.result < 0:
        flush_failed(q, -q.flush.result)
        return
    device_give_flush(q.device)
    w = NULL if q.silence else pop(&q.flushing)
    while w != NULL:
        flushed(q, w)
        w = pop(&q.flushing)


cdef void settle_other(Queue q, disk_op *op) noexcept nogil:
    cdef work *w = <work *>op.owner
    if w == NULL:
        settle_flush(q)
        return
    if op.opcode == DISK_DISCARD:
        q.discards_running -= 1
        w.discarded += op.length // XENVBD_SECTOR_SIZE
    if q.silence:
        finish(q, w, BLKIF_RSP_ERROR)       # it will not be answered
    elif op.result < 0:
        fault(q, w, -op.result)
    else:
        advance(q, w)
