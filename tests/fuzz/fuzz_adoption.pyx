"""Fuzz target: what a worker finds when it takes a ring over: a journal of any bytes, beside a ring of any bytes.

A journal is another ring's, refused, or put in order: what is left of it is what an arithmetic of its own says, doing it again changes
nothing, and its requests are judged and answered as those from the ring are.  The input's first bytes choose ABI, limits
and the indices, version and nonce; then four bytes a slot say how it is marked, and the rest is its requests and the guest's ring.
"""
from libc.stdint cimport int8_t, int32_t, uintptr_t

from xenvbd.generation cimport MEDDLED, OTHER, SAME, UNPROVEN, generation, generation_begin, generation_of
from xenvbd.journal cimport (
    journal,
    journal_answered,
    journal_consumed,
    journal_order,
    journal_publish,
    journal_reconcile,
    journal_release,
    journal_take,
    xenvbd_journal_header,
    xenvbd_journal_slot,
)
from xenvbd.request cimport request_check
from xenvbd.ring cimport back_adopt, back_attach, back_is_marked, back_pending, back_push, back_take

include "judge.pxi"

cdef enum:
    SLOTS = 32
    MARKS = 4           # bytes a slot of the input, before any request
    VALID = 1           # bits of the first of them
    ANSWERED = 2
    FAR = 4             # its index is anywhere, not near the consumer

cdef extern from * nogil:
    """
    static struct xenvbd_journal_slot slots[32], again[32];
    static struct xenvbd_journal_header header;
    """
    xenvbd_journal_slot slots[32]
    xenvbd_journal_slot again[32]
    xenvbd_journal_header header

cdef uint32_t free_slots[SLOTS]
cdef uint8_t data_nonce[16]


cdef void fill(const uint8_t *marks, const uint8_t *rest, size_t size) noexcept nogil:
    """The slots, from their marks and whatever follows."""
    cdef size_t at = 0, part
    cdef uint32_t i
    memset(slots, 0, sizeof(slots))
    for i in range(SLOTS):
        slots[i].valid = marks[0] & VALID
        slots[i].answered = marks[0] >> 1 & 1
        slots[i].idx = header.req_cons + <int8_t>marks[1]
        if marks[0] & FAR:
            slots[i].idx += <uint32_t>marks[3] << 24
        slots[i].rsp_idx = header.rsp_prod + <int8_t>marks[2]
        part = min(sizeof(xenvbd_request), size - at)
        memcpy(&slots[i].request, rest + at, part)
        at += part
        marks += MARKS


cdef uint32_t alive() noexcept nogil:
    """How many requests are to be begun again, as journal.h says it."""
    cdef uint32_t i, n = 0
    for i in range(SLOTS):
        if slots[i].valid and slots[i].idx != header.req_cons:
            if not slots[i].answered or <int32_t>(slots[i].rsp_idx - header.rsp_prod) >= 0:
                n += 1
    return n


cdef void must_be_in_order(const journal *log, const uint32_t *order, uint32_t nr) noexcept nogil:
    """Each slot in use once, the oldest first."""
    cdef uint32_t i, seen = 0
    for i in range(nr):
        must(order[i] < SLOTS and not seen >> order[i] & 1 and slots[order[i]].valid and not slots[order[i]].answered)
        seen |= <uint32_t>1 << order[i]
        if i:
            must(header.req_cons - 1 - slots[order[i - 1]].idx >= header.req_cons - 1 - slots[order[i]].idx)


cdef void finish(journal *log, back_ring *ring, uint32_t slot, const request_limits *limits) noexcept nogil:
    """Judge and answer a request, as dataplane/intake.pyx and reply.pyx do."""
    cdef request_plan plan
    cdef int16_t status
    memset(&plan, 0, sizeof(plan))
    status = request_check(&slots[slot].request, limits, &plan)
    judge(&slots[slot].request, status, &plan, limits)
    answer(ring, &slots[slot].request, &plan, status)
    journal_answered(&slots[slot], ring.rsp_prod_pvt - 1)
    journal_publish(log, ring.rsp_prod_pvt)
    back_push(ring)
    journal_release(log, &slots[slot], slot)


cdef void serve(journal *log, const uint32_t *order, uint32_t nr, int abi, const request_limits *limits) noexcept nogil:
    """Go on with the ring: what was left, then what the guest has posted."""
    cdef back_ring ring
    cdef uint32_t i, slot, idx
    back_adopt(&ring, shared, 1, abi, header.req_cons, header.rsp_prod)
    must(ring.nr_ents == SLOTS and memcmp(&header.rsp_prod, shared + 8, 4) == 0)
    for i in range(nr):
        finish(log, &ring, order[i], limits)
    must(header.rsp_prod == header.req_cons and log.nr_free == SLOTS)
    for i in range(SLOTS):
        if back_pending(&ring) <= 0:
            break
        idx, slot = ring.req_cons, journal_take(log)
        back_take(&ring, &slots[slot].request)
        journal_consumed(log, &slots[slot], idx)
        finish(log, &ring, slot, limits)
    must(alive() == 0)


cdef void must_be_of(const journal *log, int abi, uint8_t unit_shift) noexcept nogil:
    """Whose the journal is is said by what the two have, each in arithmetic of its own, and nothing is written for it."""
    cdef uint8_t before[4096]
    cdef uint32_t *words = <uint32_t *>shared
    cdef back_ring ring
    cdef generation found
    cdef bint behind
    memcpy(before, shared, PAGE)
    memcpy(again, slots, sizeof(slots))
    back_attach(&ring, shared, 1, abi, header.rsp_prod)
    found = generation_of(log, &ring, unit_shift)
    must(memcmp(before, shared, PAGE) == 0 and memcmp(again, slots, sizeof(slots)) == 0)
    if header.version == 2:
        must(found != UNPROVEN and (found == OTHER) == (memcmp(shared + 20, header.nonce, 16) != 0))
        if found == SAME:
            must(words[2] == header.rsp_prod or words[2] == header.rsp_before)
    elif words[2]:
        behind = header.rsp_prod - words[2] <= SLOTS and <int32_t>(words[0] - header.req_cons) >= 0
        must(found == (SAME if behind else MEDDLED))
    elif found == SAME:
        must(header.rsp_prod == 0)
    generation_begin(<journal *>log, &ring, data_nonce)
    must(header.version == 2 and back_is_marked(&ring, header.nonce) and memcmp(shared + 20, data_nonce, 16) == 0)
    memcpy(shared, before, PAGE)


cdef int fuzz(const uint8_t *data, size_t size) noexcept nogil:
    cdef request_limits limits
    cdef journal log
    cdef uint32_t order[SLOTS]
    cdef uint32_t i, index, left, expected
    cdef int abi
    if size < CHOICES + MARKS * SLOTS:
        return -1
    choose(data, &limits, &abi, &index)
    memset(&header, 0, sizeof(header))
    header.nr_slots, header.req_cons, header.rsp_prod = SLOTS, index, index - data[12] % 48 - (<uint32_t>data[13] << 24)
    fill(data + CHOICES, data + CHOICES + MARKS * SLOTS, size - CHOICES - MARKS * SLOTS)
    memset(shared, 0, PAGE)
    memcpy(shared, data + CHOICES, min(size - CHOICES, <size_t>PAGE))
    log.header, log.slots, log.free, log.nr_free = &header, slots, free_slots, 0
    header.version, header.rsp_before = 1 + (data[1] >> 5 & 1), header.rsp_prod - (data[14] & 7)
    memcpy(data_nonce, data, sizeof(data_nonce))
    if data[1] & 64:                    # else it has none, as good as never
        memcpy(header.nonce, shared + 20, sizeof(header.nonce))
    if data[1] & 128:
        memcpy(shared + 8, &header.rsp_prod, 4)
    must_be_of(&log, abi, limits.unit_shift)
    expected = alive()
    left = journal_reconcile(&log)
    must(left == expected)
    memcpy(again, slots, sizeof(slots))
    must(journal_reconcile(&log) == left and memcmp(again, slots, sizeof(slots)) == 0)
    must(journal_order(&log, order) == left)
    must_be_in_order(&log, order, left)
    if left != header.req_cons - header.rsp_prod:
        return 0                    # it contradicts itself, and is refused
    for i in range(SLOTS):
        if not slots[i].valid:
            free_slots[log.nr_free] = i
            log.nr_free += 1
    serve(&log, order, left, abi, &limits)
    return 0


def entry():
    """The address of the target, for the driver."""
    return <uintptr_t>&fuzz
