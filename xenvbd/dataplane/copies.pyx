"""The grant copies of a pass.  Success is a status of okay in a segment's own field and nothing else (XSA-365).

Segments start with a status that is an error: a call that failed as a whole, or in its middle, leaves no success
behind.  Only the bytes between first_sect and last_sect are touched (XSA-403).
"""
from xenvbd.hv.grant cimport copy_from_guest
from xenvbd.request cimport indirect_pages
from xenvbd.ring cimport XENVBD_SEGMENTS_PER_INDIRECT_PAGE

cdef enum:
    DESCRIPTOR = 8          # sizeof(struct blkif_request_segment), asserted in blkif_abi.h


cdef void copies_add_descriptors(copy_batch *batch, work *w) noexcept nogil:
    cdef uint32_t i, nr, left = w.plan.nr_segments
    w.first_copy = batch.nr
    for i in range(indirect_pages(w.plan.nr_segments)):
        nr = min(left, <uint32_t>XENVBD_SEGMENTS_PER_INDIRECT_PAGE)
        copy_from_guest(&batch.segments[batch.nr], w.slot.request.u.indirect_gref[i], batch.domid, 0,
                        w.descriptors + i * XENVBD_SEGMENTS_PER_INDIRECT_PAGE, nr * DESCRIPTOR)
        batch.nr += 1
        left -= nr


cdef void copies_run(copy_batch *batch, GrantTable grants) noexcept nogil:
    grants.copy(batch.segments, batch.nr)
