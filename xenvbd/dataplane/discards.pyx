"""How discards are done: a guest may ask for as many as its rings hold, of the whole disk each, and their cost is the
file system's locks, for which reads and writes wait.

So each is done in pieces, two at a time for all queues of the disk (device.pyx has the turns); a piece that took long
makes the next one shorter, and its turn is kept as long again before anybody has it.  A discard promises nothing
(docs/durability.md), so what waits when the ring is closed is answered as it is.
"""
from libc.stdint cimport uint64_t

from xenvbd.dataplane.device cimport device_give_discard, device_quit_discards, device_take_discard
from xenvbd.dataplane.execute cimport finish, submit
from xenvbd.dataplane.tally cimport now_ns
from xenvbd.dataplane.work cimport pop, push
from xenvbd.disk.disk cimport DISK_DISCARD
from xenvbd.ring cimport BLKIF_RSP_OKAY, XENVBD_SECTOR_SIZE

cdef enum:
    LONG_NS = 10000000              # of a piece: the next is half as long
    SHORT_NS = 2500000              # twice as long
    REST_NS = 1000000               # after a piece that took so long its turn rests, as long as that was, but
    MOST_REST_NS = 100000000


cdef inline uint64_t end_of(Queue q, const work *w) noexcept nogil:
    """The sector behind what can be done: storage with larger blocks than the guest's keeps those that are not
    discarded as a whole."""
    return (w.slot.request.sector + w.slot.request.u.nr_sectors) & ~q.discard_mask


cdef void discard_admit(Queue q, work *w) noexcept nogil:
    cdef uint64_t sector = w.slot.request.sector
    w.discarded = ((sector + q.discard_mask) & ~q.discard_mask) - sector
    if sector + w.discarded >= end_of(q, w) or (q.stopping and not q.handing_over):
        finish(q, w, BLKIF_RSP_OKAY)
    else:
        push(&q.discards, w)


cdef void start(Queue q, work *w) noexcept nogil:
    cdef uint64_t sector = w.slot.request.sector + w.discarded
    q.discards_running += 1
    w.begun = now_ns()
    w.op.opcode, w.op.flags, w.op.nr_iov = DISK_DISCARD, 0, 0
    w.op.offset = sector * XENVBD_SECTOR_SIZE
    w.op.length = min(end_of(q, w) - sector, q.discard_piece) * XENVBD_SECTOR_SIZE
    submit(q, &w.op)


cdef void give_turns(Queue q) noexcept nogil:
    """Those that have rested."""
    while q.discards_resting:
        q.discards_resting -= 1
        device_give_discard(q.device, q.number)


cdef void discards_proceed(Queue q) noexcept nogil:
    if q.handing_over or q.silence:         # the next worker's, or nobody's
        return
    if q.discards_resting:
        if now_ns() < q.discard_at:
            return
        give_turns(q)
    while q.discards.first != NULL and device_take_discard(q.device, q.number):
        start(q, pop(&q.discards))


cdef void learn(Queue q, uint64_t taken) noexcept nogil:
    """How long the next piece is to be."""
    if taken > LONG_NS:
        q.discard_piece = max(q.discard_piece >> 1, <uint64_t>DISCARD_LEAST)
    elif taken < SHORT_NS:
        q.discard_piece = min(q.discard_piece << 1, <uint64_t>DISCARD_MOST)


cdef void discard_settle(Queue q, work *w) noexcept nogil:
    cdef uint64_t now = now_ns(), taken = now - w.begun
    q.discards_running -= 1
    w.discarded += w.op.length // XENVBD_SECTOR_SIZE
    learn(q, taken)
    if taken < REST_NS or q.silence or q.stopping:
        device_give_discard(q.device, q.number)
    else:
        q.discards_resting += 1
        q.discard_at = max(q.discard_at, now + min(taken, <uint64_t>MOST_REST_NS))


cdef void discard_advance(Queue q, work *w) noexcept nogil:
    if w.slot.request.sector + w.discarded < end_of(q, w) and (q.handing_over or not q.stopping):
        push(&q.discards, w)
    else:
        finish(q, w, BLKIF_RSP_OKAY)


cdef void discards_cut(Queue q) noexcept nogil:
    while q.discards.first != NULL:
        finish(q, pop(&q.discards), BLKIF_RSP_OKAY)


cdef void discards_quit(Queue q) noexcept nogil:
    give_turns(q)
    device_quit_discards(q.device, q.number)
