"""One grant copy call for all that was read, one push for all answers, at most one notification (ring.h).

A ring that fell silent is not written to again: what ends is dropped, and its journal slot stays in use.
"""
from libc.stdint cimport uint32_t, uint64_t

from xenvbd.dataplane.arena cimport ARENA_NONE, arena_address, arena_give
from xenvbd.dataplane.copies cimport copies_add_out, copies_failed, copies_fit, copies_run
from xenvbd.dataplane.device cimport device_failed
from xenvbd.dataplane.execute cimport finish, follow_failure, settle
from xenvbd.dataplane.kept cimport kept_give
from xenvbd.dataplane.tally cimport latency, latency_of, now_ns, tally_op
from xenvbd.dataplane.work cimport WORK_REFUSED, pop, push_all, take_all, work, work_list
from xenvbd.disk.disk cimport disk_op
from xenvbd.journal cimport journal_answered, journal_publish, journal_release
from xenvbd.request cimport REQUEST_DISCARD, REQUEST_FLUSH, REQUEST_WRITE
from xenvbd.ring cimport BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, XENVBD_SECTOR_SIZE, back_push, back_respond

cdef enum:
    REAP = 64


cdef inline void scattered(Queue q, work_list *batch) noexcept nogil:
    """Each copy's status is looked at; no barrier is a read, so what they are all finished with is their list."""
    cdef work *w = batch.first
    cdef uint32_t failed
    while w != NULL:
        failed = copies_failed(q.batch, w, w.plan.nr_segments)
        w.status = BLKIF_RSP_OKAY
        if failed:
            q.stats.grant_errors += failed
            w.status = BLKIF_RSP_ERROR
        w = w.next
    push_all(&q.finished, batch)


cdef void scatter(Queue q) noexcept nogil:
    """Copy to the guest what was read for it."""
    cdef work_list batch
    cdef work *w
    while q.scattering.first != NULL:
        batch = q.scattering
        q.batch.nr = 0
        w = batch.first
        while w != NULL and copies_fit(q.batch, w.plan.nr_segments):
            copies_add_out(q.batch, w, arena_address(q.buffers, w.buffer))
            batch.last = w
            w = w.next
        q.scattering.first, batch.last.next = w, NULL
        copies_run(q.batch, q.grants)
        q.stats.grant_copies += 1
        q.stats.grant_segments += q.batch.nr
        scattered(q, &batch)


cdef inline void give_back(Queue q, work *w) noexcept nogil:
    q.live -= 1
    if w.nr_vectors:
        kept_give(w, w.plan.nr_segments)
        w.nr_vectors = 0
    if w.buffer != ARENA_NONE:
        arena_give(q.buffers, w.buffer, w.order)
        w.buffer = ARENA_NONE


cdef void count_other(Queue q, work *w, const latency *l) noexcept nogil:
    cdef uint64_t sectors = w.plan.sectors
    cdef uint32_t kind = REQUEST_FLUSH
    if w.plan.kind == REQUEST_DISCARD:
        kind, sectors = REQUEST_DISCARD, w.slot.request.u.nr_sectors
    tally_op(&q.stats.op[kind], sectors * XENVBD_SECTOR_SIZE, w.status != BLKIF_RSP_OKAY, l)


cdef inline void count(Queue q, work *w, latency *l) noexcept nogil:
    """Into the statistics.  What was refused is counted elsewhere: it was no operation."""
    if w.stage == WORK_REFUSED:
        return
    latency_of(l, w.since)
    if w.plan.kind <= REQUEST_WRITE:
        tally_op(&q.stats.op[w.plan.kind], <uint64_t>w.plan.sectors * XENVBD_SECTOR_SIZE, w.status != BLKIF_RSP_OKAY, l)
    else:
        count_other(q, w, l)


cdef uint32_t drop(Queue q) noexcept nogil:
    """End what will not be answered."""
    cdef uint32_t n = 0
    cdef work *w = pop(&q.finished)
    while w != NULL:
        give_back(q, w)
        n += 1
        w = pop(&q.finished)
    return n


cdef uint32_t publish(Queue q) noexcept nogil:
    cdef work_list finished = take_all(&q.finished)
    cdef work *w = finished.first
    cdef latency taken
    cdef uint32_t n = 0
    taken.now, taken.since, taken.ns, taken.bucket = now_ns(), 0, 0, 0
    while w != NULL:
        back_respond(&q.ring, w.slot.request.id, w.plan.reply_op, w.status)
        journal_answered(w.slot, q.ring.rsp_prod_pvt - 1)
        count(q, w, &taken)
        give_back(q, w)
        n += 1
        w = w.next
    journal_publish(q.log, q.ring.rsp_prod_pvt)
    q.stats.pushes += 1
    if back_push(&q.ring):
        q.stats.events_out += 1
        q.evtchn.c_notify(q.port)       # a guest that is gone cannot be told, and need not be
    w = finished.first
    while w != NULL:
        journal_release(q.log, w.slot, w.number)
        w = w.next
    return n


cdef uint32_t collect(Queue q) noexcept nogil:
    cdef disk_op *done[REAP]
    cdef int i, n = REAP
    cdef uint32_t total = 0
    while n == REAP:
        n = q.disk.reap(done, REAP)
        for i in range(n):
            settle(q, done[i])
        total += <uint32_t>n
    if device_failed(q.device) and not q.silence:
        follow_failure(q)
    if q.scattering.first != NULL:
        if q.silence:
            while q.scattering.first != NULL:
                finish(q, pop(&q.scattering), BLKIF_RSP_ERROR)
        else:
            scatter(q)
    if q.finished.first != NULL:
        total += drop(q) if q.silence else publish(q)
    q.stats.inflight, q.stats.grants_kept = q.live, q.kept.count
    return total
