"""A batch of grant copies: segments of many requests, one call."""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.work cimport work
from xenvbd.hv.grant cimport GrantTable, copy_from_guest, copy_to_guest
from xenvbd.hv.ops cimport GNTST_okay, xengnttab_grant_copy_segment_t
from xenvbd.ring cimport XENVBD_SECTOR_SIZE, blkif_request_segment

cdef enum:
    COPIES = 4096           # segments a call: more than a pass of common requests has

cdef struct copy_batch:
    xengnttab_grant_copy_segment_t segments[4096]
    uint32_t nr
    uint32_t domid


cdef inline bint copies_fit(copy_batch *batch, uint32_t nr) noexcept nogil:
    return batch.nr + nr <= COPIES


# Add a request's pages of segment descriptors.
cdef void copies_add_descriptors(copy_batch *batch, work *w) noexcept nogil
# Do them all.
cdef void copies_run(copy_batch *batch, GrantTable grants) noexcept nogil


cdef inline void copies_add_in(copy_batch *batch, work *w, char *buffer) noexcept nogil:
    """Add a request's data, into the buffer."""
    cdef const blkif_request_segment *segment = w.segments
    cdef const blkif_request_segment *last = segment + w.plan.nr_segments
    cdef xengnttab_grant_copy_segment_t *copy = &batch.segments[batch.nr]
    cdef uint32_t length
    w.first_copy = batch.nr
    batch.nr += w.plan.nr_segments
    while segment != last:
        length = (segment.last_sect - <uint32_t>segment.first_sect + 1) * XENVBD_SECTOR_SIZE
        copy_from_guest(copy, segment.gref, batch.domid, segment.first_sect * XENVBD_SECTOR_SIZE, buffer, length)
        buffer += length
        copy += 1
        segment += 1


cdef inline void copies_add_out(copy_batch *batch, work *w, const char *buffer) noexcept nogil:
    """Add a request's data, out of the buffer."""
    cdef const blkif_request_segment *segment = w.segments
    cdef const blkif_request_segment *last = segment + w.plan.nr_segments
    cdef xengnttab_grant_copy_segment_t *copy = &batch.segments[batch.nr]
    cdef uint32_t length
    w.first_copy = batch.nr
    batch.nr += w.plan.nr_segments
    while segment != last:
        length = (segment.last_sect - <uint32_t>segment.first_sect + 1) * XENVBD_SECTOR_SIZE
        copy_to_guest(copy, segment.gref, batch.domid, segment.first_sect * XENVBD_SECTOR_SIZE, buffer, length)
        buffer += length
        copy += 1
        segment += 1


cdef inline bint copies_clean(const copy_batch *batch) noexcept nogil:
    """Whether every single copy succeeded."""
    cdef uint32_t i, failed = 0
    for i in range(batch.nr):
        failed |= <uint32_t>batch.segments[i].status ^ GNTST_okay
    return failed == 0


cdef inline uint32_t copies_failed(copy_batch *batch, work *w, uint32_t nr) noexcept nogil:
    """What came of a request's nr copies: how many of them failed."""
    cdef uint32_t i, failed = 0
    for i in range(nr):
        failed += batch.segments[w.first_copy + i].status != GNTST_okay
    return failed
