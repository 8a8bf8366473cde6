"""The grant copies of a pass.  Success is a status of okay in a segment's own field and nothing else (XSA-365).

Segments start with a status that is an error: a call that failed as a whole, or in its middle, leaves no success
behind.  Only the bytes between first_sect and last_sect are touched (XSA-403).
"""
from xenvbd.hv.grant cimport copy_from_guest, copy_to_guest
from xenvbd.hv.ops cimport GNTST_okay
from xenvbd.request cimport indirect_pages
from xenvbd.ring cimport XENVBD_SECTOR_SIZE, XENVBD_SEGMENTS_PER_INDIRECT_PAGE

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


cdef void copies_add_in(copy_batch *batch, work *w, char *buffer) noexcept nogil:
    cdef uint32_t i, length
    w.first_copy = batch.nr
    for i in range(w.plan.nr_segments):
        length = (w.segments[i].last_sect - w.segments[i].first_sect + 1) * XENVBD_SECTOR_SIZE
        copy_from_guest(&batch.segments[batch.nr + i], w.segments[i].gref, batch.domid,
                        w.segments[i].first_sect * XENVBD_SECTOR_SIZE, buffer, length)
        buffer += length
    batch.nr += w.plan.nr_segments


cdef void copies_add_out(copy_batch *batch, work *w, const char *buffer) noexcept nogil:
    cdef uint32_t i, length
    w.first_copy = batch.nr
    for i in range(w.plan.nr_segments):
        length = (w.segments[i].last_sect - w.segments[i].first_sect + 1) * XENVBD_SECTOR_SIZE
        copy_to_guest(&batch.segments[batch.nr + i], w.segments[i].gref, batch.domid,
                      w.segments[i].first_sect * XENVBD_SECTOR_SIZE, buffer, length)
        buffer += length
    batch.nr += w.plan.nr_segments


cdef void copies_run(copy_batch *batch, GrantTable grants) noexcept nogil:
    grants.copy(batch.segments, batch.nr)


cdef uint32_t copies_failed(copy_batch *batch, work *w, uint32_t nr) noexcept nogil:
    cdef uint32_t i, failed = 0
    for i in range(nr):
        failed += batch.segments[w.first_copy + i].status != GNTST_okay
    return failed
