"""The order of things.

A FLUSH promises every write answered before it: one fdatasync that starts after it was consumed will do, and
flushes that wait share the next one.  A flush with data is a flush and then a write.  A WRITE_BARRIER drains
its ring, flushes, writes, flushes, and lets nothing be consumed meanwhile (blkif.h; between rings there is no order).

A failed flush is never answered (Linux takes the error for success and stops flushing), and neither is anything
after it.  What else fails is the request's own, or is kept and tried again, as the disk's policy says; by default only
writes without room (ENOSPC) are kept.
"""
from libc.errno cimport EDQUOT, ENOSPC, EOPNOTSUPP

from xenvbd.dataplane.device cimport device_fail, device_give_flush, device_take_flush
from xenvbd.dataplane.discards cimport (
    discard_admit,
    discard_advance,
    discard_settle,
    discards_proceed,
    discards_quit,
)
from xenvbd.dataplane.events cimport (
    EVENT_FLUSH_FAILED,
    EVENT_IO_ERROR,
    EVENT_IO_STOP,
    EVENT_NO_SPACE,
    EVENT_RESUMED,
    event_post,
)
from xenvbd.dataplane.queue cimport KEEP_NO_SPACE, KEEP_READS, KEEP_WRITES, SILENT_FAILED
from xenvbd.dataplane.tally cimport XENVBD_STOP_FLUSH, XENVBD_STOP_IO, XENVBD_STOP_NONE, XENVBD_STOP_NOSPC, now_ns
from xenvbd.dataplane.work cimport (
    WAY_OTHER,
    WORK_DATA,
    WORK_DRAINING,
    WORK_FIRST,
    WORK_LAST,
    pop,
    push,
    take_all,
    work_list,
)
from xenvbd.disk.disk cimport DISK_DISCARD, DISK_FLUSH, DISK_READ, DISK_WRITE
from xenvbd.request cimport REQUEST_BARRIER, REQUEST_DISCARD, REQUEST_READ
from xenvbd.ring cimport BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY

cdef enum:
    RETRY_NS = 1000000000


cdef void execute_other(Queue q, work *w) noexcept nogil:
    if w.plan.kind == REQUEST_DISCARD:
        discard_admit(q, w)
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
    q.flush.op.opcode, q.flush.op.flags, q.flush.op.nr_iov = DISK_FLUSH, 0, 0
    q.flush.op.offset = q.flush.op.length = 0
    submit(q, &q.flush.op)


cdef void proceed(Queue q) noexcept nogil:
    if q.barrier != NULL and q.barrier.stage == WORK_DRAINING and q.live == 1:
        q.barrier.stage = WORK_FIRST
        push(&q.flush_waiting, q.barrier)
    if q.discards.first != NULL or q.discards_resting:
        discards_proceed(q)
    start_flush(q)


# What comes back

cdef inline bint no_room(int error) noexcept nogil:
    return error == ENOSPC or error == EDQUOT


cdef void say_why(Queue q) noexcept nogil:
    """Let the statistics say what is kept, if nothing graver has happened."""
    if q.stats.stopped != XENVBD_STOP_FLUSH:
        q.stats.stopped = XENVBD_STOP_IO if q.nr_stuck else XENVBD_STOP_NOSPC if q.nr_held else XENVBD_STOP_NONE


cdef void count_out(Queue q, work *w) noexcept nogil:
    if w.was_held == XENVBD_STOP_NOSPC:
        q.nr_held -= 1
    elif w.was_held:
        q.nr_stuck -= 1
    w.was_held = XENVBD_STOP_NONE


cdef void count_in(Queue q, work *w, int error) noexcept nogil:
    """One more that is kept; the first of its kind is told of, once the statistics say so too."""
    cdef bint room = not no_room(error)
    w.way, w.was_held = WAY_OTHER, XENVBD_STOP_IO if room else XENVBD_STOP_NOSPC
    q.nr_stuck += room
    q.nr_held += not room
    say_why(q)
    if (q.nr_stuck if room else q.nr_held) == 1:
        event_post(&q.events, EVENT_IO_STOP if room else EVENT_NO_SPACE, error, w.slot.request.sector)


cdef void hold(Queue q, work *w, int error) noexcept nogil:
    """Keep what failed."""
    if w.was_held != (XENVBD_STOP_NOSPC if no_room(error) else XENVBD_STOP_IO):
        count_out(q, w)
        count_in(q, w, error)
    if not no_room(error):
        push(&q.stuck, w)
        return
    if q.held.first == NULL:
        q.retry_at = now_ns() + RETRY_NS
    push(&q.held, w)


cdef void let_go(Queue q, work *w) noexcept nogil:
    """What was kept has ended, one way or the other."""
    count_out(q, w)
    say_why(q)
    if q.nr_held == 0 and q.nr_stuck == 0:
        event_post(&q.events, EVENT_RESUMED, 0, 0)


cdef void submit_again(Queue q, work_list *works) noexcept nogil:
    cdef work_list kept = take_all(works)
    cdef work *w = pop(&kept)
    while w != NULL:
        submit_data(q, w, w.op.opcode)
        w = pop(&kept)


cdef void retry_held(Queue q) noexcept nogil:
    submit_again(q, &q.held)


cdef void retry_all(Queue q) noexcept nogil:
    submit_again(q, &q.held)
    submit_again(q, &q.stuck)


cdef bint is_kept(Queue q, work *w, int error) noexcept nogil:
    """Whether the policy keeps what failed so.  At the end of the ring every error is an answer."""
    if q.stopping and not q.handing_over:
        return False
    if w.op.opcode == DISK_WRITE:
        return q.keeps & (KEEP_NO_SPACE if no_room(error) else KEEP_WRITES) != 0
    return w.op.opcode == DISK_READ and q.keeps & KEEP_READS != 0


cdef void fault(Queue q, work *w, int error) noexcept nogil:
    """An operation failed."""
    if is_kept(q, w, error):
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
    elif w.plan.kind == REQUEST_DISCARD:
        discard_advance(q, w)
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
    discards_quit(q)
    q.stats.stopped = XENVBD_STOP_FLUSH


cdef void settle_flush(Queue q) noexcept nogil:
    cdef work *w
    q.flush_running = False
    if q.flush.op.result < 0:
        flush_failed(q, -q.flush.op.result)
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
        discard_settle(q, w)
    if q.silence:
        finish(q, w, BLKIF_RSP_ERROR)       # it will not be answered
    elif op.result < 0:
        fault(q, w, -op.result)
    else:
        advance(q, w)
