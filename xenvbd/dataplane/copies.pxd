"""A batch of grant copies: segments of many requests, one call."""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.work cimport work
from xenvbd.hv.grant cimport GrantTable, copy_from_guest, copy_to_guest
from xenvbd.hv.ops cimport GNTST_okay, xengnttab_grant_copy_segment_t
from xenvbd.ring cimport XENVBD_SECTOR_SIZE

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
    cdef uint32_t i, length, first
    w.first_copy = batch.nr
    for i in range(w.plan.nr_segments):
        first = w.segments[i].first_sect
        length = (w.segments[i].last_sect - first + 1) * XENVBD_SECTOR_SIZE
        copy_from_guest(&batch.segments[batch.nr + i], w.segments[i].gref, batch.domid, first * XENVBD_SECTOR_SIZE,
                        buffer, length)
        buffer += length
    batch.nr += w.plan.nr_segments


cdef inline void copies_add_out(copy_batch *batch, work *w, const char *buffer) noexcept nogil:
    """Add a request's data, out of the buffer."""
    cdef uint32_t i, length, first
    w.first_copy = batch.nr
    for i in range(w.plan.nr_segments):
        first = w.segments[i].first_sect
        length = (w.segments[i].last_sect - first + 1) * XENVBD_SECTOR_SIZE
        copy_to_guest(&batch.segments[batch.nr + i], w.segments[i].gref, batch.domid, first * XENVBD_SECTOR_SIZE,
                      buffer, length)
        buffer += length
    batch.nr += w.plan.nr_segments


cdef inline uint32_t copies_failed(copy_batch *batch, work *w, uint32_t nr) noexcept nogil:
    """What came of a request's nr copies: how many of them failed."""
    cdef uint32_t i, failed = 0
    for i in range(nr):
        failed += batch.segments[w.first_copy + i].status != GNTST_okay
    return failed
