"""One grant copy call for all that was read, one push for all answers, at most one notification (ring.h).

A ring that fell silent is not written to again: what ends is dropped, and its journal slot stays in use.
"""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.arena cimport ARENA_NONE, arena_address, arena_give
from xenvbd.dataplane.copies cimport copies_add_out, copies_clean, copies_failed, copies_fit, copies_run
from xenvbd.dataplane.device cimport device_failed
from xenvbd.dataplane.execute cimport finish, follow_failure, settle_other
from xenvbd.dataplane.kept cimport kept_give
from xenvbd.dataplane.tally cimport now_ns, tallies, tally, tally_begin, tally_end, tally_pass
from xenvbd.dataplane.work cimport (
    WAY_ANSWER,
    WAY_SCATTER,
    WORK_REFUSED,
    behind,
    pop,
    push,
    push_all,
    take_all,
    work,
    work_list,
)
from xenvbd.disk.disk cimport disk_op
from xenvbd.journal cimport journal, journal_answered, journal_publish, journal_release, xenvbd_journal_slot
from xenvbd.request cimport REQUEST_DISCARD, REQUEST_FLUSH, REQUEST_WRITE
from xenvbd.ring cimport BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, back_push, back_respond, back_ring


cdef void blame(Queue q, const work_list *batch) noexcept nogil:
    """Some of the copies failed: each status is looked at."""
    cdef work *w = batch.first
    cdef uint32_t failed
    while w != NULL:
        failed = copies_failed(q.batch, w, w.plan.nr_segments)
        if failed:
            q.stats.grant_errors += failed
            w.status = BLKIF_RSP_ERROR
        w = behind(w)


cdef void scatter(Queue q) noexcept nogil:
    """Copy to the guest what was read for it.  No barrier is a read, so the finished ones are just added."""
    cdef work_list batch
    cdef work *w
    while q.scattering.first != NULL:
        batch = q.scattering
        q.batch.nr = 0
        w = batch.first
        while w != NULL and copies_fit(q.batch, w.plan.nr_segments):
            copies_add_out(q.batch, w, arena_address(q.buffers, w.buffer))
            w.status = BLKIF_RSP_OKAY
            batch.last = w
            w = behind(w)
        q.scattering.first, batch.last.op.next = w, NULL
        copies_run(q.batch, q.grants)
        q.stats.grant_copies += 1
        q.stats.grant_segments += q.batch.nr
        if not copies_clean(q.batch):
            blame(q, &batch)
        push_all(&q.finished, &batch)


cdef inline void give_back(Queue q, work *w) noexcept nogil:
    if w.nr_vectors:
        kept_give(w, w.plan.nr_segments)
        w.nr_vectors = 0
    elif w.buffer != ARENA_NONE:
        arena_give(q.buffers, w.buffer, w.order)
        w.buffer = ARENA_NONE


cdef void count_other(Queue q, work *w, tallies *t) noexcept nogil:
    """What was refused is counted elsewhere: it was no operation."""
    cdef uint32_t kind = w.plan.kind if w.plan.kind <= REQUEST_DISCARD else REQUEST_FLUSH
    if w.stage == WORK_REFUSED:
        return
    tally(t, kind, w.slot.request.u.nr_sectors if kind == REQUEST_DISCARD else w.plan.sectors)
    t.errors[kind] += w.status != BLKIF_RSP_OKAY


cdef inline void count(Queue q, work *w, tallies *t) noexcept nogil:
    """Into the statistics."""
    tally_pass(t, w.since)
    if w.plan.kind <= REQUEST_WRITE and w.status == BLKIF_RSP_OKAY:
        tally(t, w.plan.kind, w.plan.sectors)
    else:
        count_other(q, w, t)


cdef uint32_t drop(Queue q) noexcept nogil:
    """End what will not be answered."""
    cdef uint32_t n = 0
    cdef work *w = pop(&q.finished)
    while w != NULL:
        give_back(q, w)
        n += 1
        w = pop(&q.finished)
    return n


cdef uint32_t answer(Queue q, work *w) noexcept nogil:
    """Write the responses of a list to the ring, and count them: how many they are."""
    cdef back_ring ring = q.ring
    cdef xenvbd_journal_slot *slot
    cdef tallies t
    cdef uint32_t n
    tally_begin(&t, q.stats, now_ns())
    while w != NULL:
        slot = w.slot
        back_respond(&ring, slot.request.id, w.plan.reply_op, w.status)
        journal_answered(slot, ring.rsp_prod_pvt - 1)
        count(q, w, &t)
        give_back(q, w)
        w = behind(w)
    tally_end(&t)
    n = ring.rsp_prod_pvt - q.ring.rsp_prod_pvt
    q.ring.rsp_prod_pvt = ring.rsp_prod_pvt
    return n


cdef void release(Queue q, work *w) noexcept nogil:
    """The journal slots of a list, whose answers are published."""
    cdef journal log = q.log[0]
    while w != NULL:
        journal_release(&log, w.slot, w.number)
        w = behind(w)
    q.log.nr_free = log.nr_free


cdef uint32_t publish(Queue q) noexcept nogil:
    cdef work_list finished = take_all(&q.finished)
    cdef uint32_t n = answer(q, finished.first)
    journal_publish(q.log, q.ring.rsp_prod_pvt)
    q.stats.pushes += 1
    q.woken = back_push(&q.ring)
    if q.woken:
        q.stats.events_out += 1
        q.evtchn.c_notify(q.port)       # a guest that is gone cannot be told, and need not be
    release(q, finished.first)
    return n


cdef uint32_t settle(Queue q) noexcept nogil:
    """Take what the disk has done; how many operations that is."""
    cdef disk_op *chain = q.disk.reap()
    cdef work_list finished
    cdef work *w
    cdef uint32_t n = 0
    finished.first = finished.last = NULL
    while chain != NULL:
        w = <work *>chain
        chain = chain.next
        n += 1
        if w.op.result == 0 and w.way == WAY_ANSWER:
            push(&finished, w)
        elif w.op.result == 0 and w.way == WAY_SCATTER:
            push(&q.scattering, w)
        else:
            settle_other(q, &w.op)
    if finished.first != NULL:
        push_all(&q.finished, &finished)
    q.owned -= n
    return n


cdef void give_up(Queue q) noexcept nogil:
    """Nothing more is copied to a guest that is not answered."""
    while q.scattering.first != NULL:
        finish(q, pop(&q.scattering), BLKIF_RSP_ERROR)


cdef uint32_t collect(Queue q) noexcept nogil:
    cdef uint32_t ended, total = settle(q)
    if device_failed(q.device) and not q.silence:
        follow_failure(q)
    if q.scattering.first != NULL:
        if q.silence:
            give_up(q)
        else:
            scatter(q)
    if q.finished.first != NULL:
        ended = drop(q) if q.silence else publish(q)
        q.live -= ended
        total += ended
    q.stats.inflight, q.stats.grants_kept = q.live, q.kept.count
    return total
