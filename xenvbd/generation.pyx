"""The rules of generation.pxd.

A journal has a nonce, and so has its ring: equal, it is the same ring.  Absent or another: it was begun anew, for every
frontend clears that place when it begins a ring.  Its rsp_prod is what was published last, or the batch that was being
published when the worker died (which stores to the ring after the journal); anything else is the guest's work.

A journal of version 1 has none.  What holds of every frontend is that a new ring begins at 0, and nobody publishes
responses on it but who serves it, and then the journal would be its own.  So

- rsp_prod is not 0, and no more than a ring's entries behind the journal's: the same.
- rsp_prod is 0, and so is the journal's: the same, or just as good, if each request that is to be begun again stands in
  the ring as it stands in the journal, for then the ring asks for nothing else.  Another, if one does not, unless a
  response may stand there.
- rsp_prod is 0, and the journal's is not: another, if the first batch cannot have been under way, or if less was posted
  than had been consumed, or a request that no response can have overwritten is another.

Where that proves nothing, nothing is done.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from xenvbd.journal cimport _SEQ_CST, _compiler_barrier, journal, xenvbd_journal_slot
from xenvbd.request cimport request_scale
from xenvbd.ring cimport (
    back_is_marked,
    back_mark,
    back_ring,
    back_shared_req_prod,
    back_shared_rsp_prod,
    back_take,
    xenvbd_request,
)


cdef bint stands(const back_ring *ring, const xenvbd_journal_slot *slot, uint8_t unit_shift) noexcept nogil:
    """Whether the slot's request is what the ring has at its index."""
    cdef back_ring at = ring[0]
    cdef xenvbd_request found
    at.req_cons = slot.idx
    back_take(&at, &found)
    if unit_shift:
        request_scale(&found, unit_shift)
    found.pad = slot.request.pad            # nobody's
    return memcmp(&found, &slot.request, sizeof(found)) == 0


cdef uint32_t written(const journal *j) noexcept nogil:
    """Responses below this index may stand in the ring, beginning at 0: answered, or the one being written."""
    cdef uint32_t i, end = j.header.rsp_prod
    for i in range(j.header.nr_slots):
        if j.slots[i].valid and j.slots[i].answered and j.slots[i].rsp_idx - end < j.header.nr_slots:
            end = j.slots[i].rsp_idx + 1
    return end


cdef generation by_requests(const journal *j, const back_ring *ring, uint8_t unit_shift) noexcept nogil:
    """Of a ring whose rsp_prod is 0."""
    cdef uint32_t i, end = written(j)
    cdef generation found = SAME if j.header.rsp_prod == 0 else UNPROVEN
    cdef const xenvbd_journal_slot *slot
    for i in range(j.header.nr_slots):
        slot = &j.slots[i]
        if not slot.valid or slot.idx == j.header.req_cons:
            continue
        if slot.idx < end:
            found = UNPROVEN
        elif not stands(ring, slot, unit_shift):
            if slot.idx > end:
                return OTHER
            found = UNPROVEN
    return found


cdef generation unmarked(const journal *j, const back_ring *ring, uint32_t shared, bint taken_back,
                         uint8_t unit_shift) noexcept nogil:
    """By what a journal without a nonce has."""
    cdef bint batch = j.header.rsp_prod - shared <= j.header.nr_slots
    if shared != 0:
        return SAME if batch and not taken_back else MEDDLED
    return OTHER if taken_back or not batch else by_requests(j, ring, unit_shift)


cdef generation generation_of(const journal *j, const back_ring *ring, uint8_t unit_shift) noexcept nogil:
    cdef uint32_t shared = back_shared_rsp_prod(ring)
    cdef bint taken_back = <int32_t>(back_shared_req_prod(ring) - j.header.req_cons) < 0
    if j.header.version < 2:
        return unmarked(j, ring, shared, taken_back, unit_shift)
    if not back_is_marked(ring, j.header.nonce):
        return OTHER
    if taken_back or (shared != j.header.rsp_prod and shared != j.header.rsp_before):
        return MEDDLED
    return SAME


cdef void generation_begin(journal *j, back_ring *ring, const unsigned char *nonce) noexcept nogil:
    memcpy(j.header.nonce, nonce, sizeof(j.header.nonce))
    j.header.rsp_before = j.header.rsp_prod
    _compiler_barrier(_SEQ_CST)
    back_mark(ring, j.header.nonce)
    # Last: until then it is judged without.
    _compiler_barrier(_SEQ_CST)
    j.header.version = 2
    _compiler_barrier(_SEQ_CST)
