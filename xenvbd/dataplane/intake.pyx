"""A pass reads req_prod once, copies each request once into its journal slot, and looks at nothing but that copy.

Grant copies are one call for all segment descriptors of a pass and one for all the data written in it.  A request
with one failed copy does no I/O at all.
"""
from libc.stdint cimport int16_t, uint16_t, uint32_t, uint64_t

from xenvbd.dataplane.arena cimport ARENA_NONE, arena_address, arena_order, arena_take
from xenvbd.dataplane.copies cimport copies_add_descriptors, copies_add_in, copies_failed, copies_fit, copies_run
from xenvbd.dataplane.discards cimport discards_quit
from xenvbd.dataplane.events cimport EVENT_QUARANTINED, event_post
from xenvbd.dataplane.execute cimport execute, finish, proceed, submit_data, submit_vectors
from xenvbd.dataplane.kept cimport kept_sweep, kept_table, kept_take
from xenvbd.dataplane.queue cimport SILENT_QUARANTINE
from xenvbd.dataplane.tally cimport now_ns
from xenvbd.dataplane.work cimport (
    WAY_ANSWER,
    WAY_OTHER,
    WAY_SCATTER,
    WORK_REFUSED,
    WORK_TAKEN,
    pop,
    push,
    work,
    work_list,
)
from xenvbd.disk.disk cimport disk_op
from xenvbd.disk.oplist cimport chain_add, chain_begin, chain_end, op_chain
from xenvbd.journal cimport journal, journal_consumed, journal_take, xenvbd_journal_slot
from xenvbd.request cimport (
    REQUEST_BARRIER,
    REQUEST_READ,
    REQUEST_WRITE,
    indirect_pages,
    request_check,
    request_check_segments,
    request_scale,
    segments_scale,
)
from xenvbd.ring cimport (
    BLKIF_OP_INDIRECT,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    XENVBD_SECTOR_SIZE,
    back_pending,
    back_ring,
    back_take,
)

cdef enum:
    EAGER_BUDGET = 16           # requests a pass while I/O finishes at once: the guest goes on with the first
    FRUITLESS = 32              # passes without a good request before the guest has to wait
    NAP_NS = 1000000


cdef bint may_consume(Queue q) noexcept nogil:
    return not (q.silence or (q.stopping and not q.last_look) or q.barrier != NULL or q.starving.first != NULL
                or q.nap_until)


cdef void quarantine(Queue q) noexcept nogil:
    """The producer overran the ring (CVE-2010-4247): not one index of it can be believed any more."""
    q.silence = SILENT_QUARANTINE
    discards_quit(q)
    q.stats.quarantined = 1
    event_post(&q.events, EVENT_QUARANTINED, 71, 0)     # EPROTO


cdef void count_pass(Queue q, uint32_t taken) noexcept nogil:
    """A guest that only rings, or only sends what is refused, is looked at a thousand times a second."""
    if taken > q.bad:
        q.fruitless = 0
    elif taken or q.rung:
        q.fruitless += 1
        if q.fruitless >= FRUITLESS:
            q.nap_until = now_ns() + NAP_NS
    q.rung = False


cdef void refuse(Queue q, work *w, int16_t status) noexcept nogil:
    if status == BLKIF_RSP_EOPNOTSUPP:
        q.stats.unsupported += 1
    else:
        q.stats.invalid += 1
    w.stage = WORK_REFUSED
    q.bad += 1
    finish(q, w, status)


cdef inline void route(Queue q, work *w) noexcept nogil:
    """It has its buffer."""
    if w.plan.kind == REQUEST_READ:
        w.way = WAY_SCATTER
        submit_data(q, w, REQUEST_READ)
    else:
        push(&q.gathering, w)


cdef inline bint give_buffer(Queue q, work *w) noexcept nogil:
    w.order = arena_order(w.plan.sectors * XENVBD_SECTOR_SIZE)
    w.buffer = arena_take(q.buffers, w.order)
    return w.buffer != ARENA_NONE


cdef void starve(Queue q, work *w) noexcept nogil:
    """Those that wait for a buffer are served in their order, so that large ones get theirs too."""
    if q.starving.first == NULL:
        q.stats.starved += 1
    push(&q.starving, w)


cdef inline void prepare_data(Queue q, const kept_table *table, work *w) noexcept nogil:
    """It is good, and a plain read or write.  table: as admit()."""
    if table != NULL and kept_take(q.kept, table, w):
        w.way = WAY_ANSWER
        submit_vectors(q, w, w.plan.kind, <uint16_t>w.nr_vectors)
    elif q.starving.first == NULL and give_buffer(q, w):
        route(q, w)
    else:
        starve(q, w)


cdef void prepare(Queue q, work *w) noexcept nogil:
    """It is good."""
    if w.plan.kind <= REQUEST_WRITE:
        prepare_data(q, &q.kept.table if q.kept.cap else NULL, w)
    elif w.plan.sectors == 0:
        execute(q, w)
    elif q.starving.first == NULL and give_buffer(q, w):
        route(q, w)
    else:
        starve(q, w)


cdef uint32_t revive(Queue q) noexcept nogil:
    """Give buffers to those that wait for one; their number."""
    cdef uint32_t n = 0
    while q.starving.first != NULL and give_buffer(q, q.starving.first):
        route(q, pop(&q.starving))
        n += 1
    return n


cdef void admit_other(Queue q, work *w) noexcept nogil:
    """It is good as far as can be seen, and no plain read or write."""
    if w.plan.kind == REQUEST_BARRIER:
        q.barrier = w
    if w.slot.request.operation == BLKIF_OP_INDIRECT:
        push(&q.describing, w)
    else:
        prepare(q, w)


cdef inline void admit(Queue q, const kept_table *table, work *w) noexcept nogil:
    """See where a request goes that stands in its journal slot.  table: of the guest's pages, NULL if none is kept."""
    cdef xenvbd_journal_slot *slot = w.slot
    cdef int16_t status
    w.segments = slot.request.u.seg
    w.stage, w.way, w.status = WORK_TAKEN, WAY_OTHER, BLKIF_RSP_OKAY
    status = request_check(&slot.request, &q.limits, &w.plan)
    if status != BLKIF_RSP_OKAY:
        refuse(q, w, status)
    elif slot.request.operation <= BLKIF_OP_WRITE:
        prepare_data(q, table, w)
    else:
        admit_other(q, w)


cdef void admit_all(Queue q, disk_op *taken, uint32_t nr) noexcept nogil:
    """The same of a list of so many works."""
    cdef kept_table copy = q.kept.table
    cdef const kept_table *table = &copy if q.kept.cap else NULL
    cdef work *w
    q.live += nr
    while taken != NULL:
        w, taken = <work *>taken, taken.next
        admit(q, table, w)


cdef inline work *take(Queue q, back_ring *ring, journal *log) noexcept nogil:
    """Copy the next request into a journal slot."""
    cdef uint32_t idx = ring.req_cons
    cdef work *w = &q.works[journal_take(log)]
    back_take(ring, &w.slot.request)
    if q.limits.unit_shift:
        request_scale(&w.slot.request, q.limits.unit_shift)
    journal_consumed(log, w.slot, idx)
    return w


cdef disk_op *take_some(Queue q, uint32_t budget, uint64_t now) noexcept nogil:
    """Take at most so many requests, and none behind a barrier: a list of their works."""
    cdef back_ring ring = q.ring            # copies: the compiler cannot know that nothing below changes them
    cdef journal log = q.log[0]
    cdef uint32_t end = ring.req_cons + budget
    cdef op_chain taken
    cdef work *w
    chain_begin(&taken)
    while ring.req_cons != end:
        w = take(q, &ring, &log)
        w.since = now
        chain_add(&taken, &w.op)
        if w.slot.request.operation == BLKIF_OP_WRITE_BARRIER:
            break
    q.ring.req_cons, q.log.nr_free = ring.req_cons, log.nr_free
    return chain_end(&taken)


cdef void look_once_more(Queue q) noexcept nogil:
    """What the guest has posted by now is answered before the ring is closed, whether it has notified us or not."""
    cdef int posted = back_pending(&q.ring)
    if posted < 0:
        quarantine(q)
    q.last_look, q.last = posted > 0, q.ring.req_cons + <uint32_t>posted


cdef inline int of_last_look(Queue q, int posted) noexcept nogil:
    """How much of this is still looked at; a guest may have taken back what it had posted."""
    q.last_look = posted > 0
    return min(posted, <int>(q.last - q.ring.req_cons))


cdef uint32_t consume(Queue q) noexcept nogil:
    cdef int posted = back_pending(&q.ring)
    cdef uint32_t before = q.ring.req_cons, budget = q.ring.nr_ents
    cdef disk_op *taken
    cdef uint64_t now
    q.bad = 0
    if posted < 0:
        quarantine(q)
        return 0
    if q.last_look:
        posted = of_last_look(q, posted)
    if q.eager:
        budget = EAGER_BUDGET
        if q.woken:                     # once a pass: fewer passes, as long as it has something to do meanwhile
            budget = max(budget, <uint32_t>posted >> 1)
    if posted > 0:
        now = q.kept.now = now_ns()
        if now >= q.kept.sweep_at:
            kept_sweep(q.kept, now)
        taken = take_some(q, min(budget, <uint32_t>posted), now)
        admit_all(q, taken, q.ring.req_cons - before)
    q.more = q.ring.req_cons - before < <uint32_t>posted
    if q.last_look:
        q.last_look = q.more
    return q.ring.req_cons - before


cdef void run_batch(Queue q) noexcept nogil:
    copies_run(q.batch, q.grants)
    q.stats.grant_copies += 1
    q.stats.grant_segments += q.batch.nr


cdef bint copied(Queue q, work *w, uint32_t nr) noexcept nogil:
    """Whether all of a request's copies succeeded; otherwise it ends here."""
    cdef uint32_t failed = copies_failed(q.batch, w, nr)
    if failed == 0:
        return True
    q.stats.grant_errors += failed
    finish(q, w, BLKIF_RSP_ERROR)
    return False


cdef void described(Queue q, work *w) noexcept nogil:
    """An indirect request's segments are in private memory: judge them."""
    cdef int16_t status
    w.segments = w.descriptors
    if q.limits.unit_shift:
        segments_scale(w.descriptors, w.plan.nr_segments, q.limits.unit_shift)
    status = request_check_segments(&w.slot.request, w.segments, &q.limits, &w.plan)
    if status == BLKIF_RSP_OKAY:
        prepare(q, w)
    else:
        refuse(q, w, status)


cdef void describe(Queue q) noexcept nogil:
    """Copy the segment descriptors of indirect requests, each page once (XSA-155)."""
    cdef work_list batch
    cdef work *w
    while q.describing.first != NULL:
        q.batch.nr = 0
        batch.first = batch.last = NULL
        while q.describing.first != NULL and copies_fit(q.batch, indirect_pages(q.describing.first.plan.nr_segments)):
            w = pop(&q.describing)
            copies_add_descriptors(q.batch, w)
            push(&batch, w)
        run_batch(q)
        w = pop(&batch)
        while w != NULL:
            if copied(q, w, indirect_pages(w.plan.nr_segments)):
                described(q, w)
            else:
                q.bad += 1
            w = pop(&batch)


cdef void gather(Queue q) noexcept nogil:
    """Copy in what the writes of this pass write."""
    cdef work_list batch
    cdef work *w
    while q.gathering.first != NULL:
        q.batch.nr = 0
        batch.first = batch.last = NULL
        while q.gathering.first != NULL and copies_fit(q.batch, q.gathering.first.plan.nr_segments):
            w = pop(&q.gathering)
            copies_add_in(q.batch, w, arena_address(q.buffers, w.buffer))
            push(&batch, w)
        run_batch(q)
        w = pop(&batch)
        while w != NULL:
            if copied(q, w, w.plan.nr_segments):
                execute(q, w)
            w = pop(&batch)


cdef void begin_again(Queue q, const uint32_t *slots, uint32_t nr) noexcept nogil:
    cdef uint64_t now = now_ns()
    cdef uint32_t i
    cdef op_chain taken
    chain_begin(&taken)
    for i in range(nr):
        q.works[slots[i]].since = now
        chain_add(&taken, &q.works[slots[i]].op)
    admit_all(q, chain_end(&taken), nr)
    # Not left to the first pass: it takes nothing, and describes nothing, while there is a barrier.
    describe(q)
    gather(q)


cdef uint32_t intake(Queue q) noexcept nogil:
    cdef uint32_t revived = 0, taken = 0
    if q.silence:
        return 0
    if q.starving.first != NULL:
        revived = revive(q)
    if may_consume(q):
        taken = consume(q)
        if q.describing.first != NULL:
            describe(q)
        count_pass(q, taken)
    if q.gathering.first != NULL:
        gather(q)
    proceed(q)
    q.busy += taken
    return revived + taken
