"""A batch of grant copies: segments of many requests, one call."""
from libc.stdint cimport uint32_t

from xenvbd.dataplane.work cimport work
from xenvbd.hv.grant cimport GrantTable
from xenvbd.hv.ops cimport xengnttab_grant_copy_segment_t

cdef enum:
    COPIES = 4096           # segments a call: more than a pass of common requests has

cdef struct copy_batch:
    xengnttab_grant_copy_segment_t segments[4096]
    uint32_t nr
    uint32_t domid


cdef inline bint copies_fit(copy_batch *batch, uint32_t nr) noexcept nogil:
    return batch.nr + nr <= COPIES


# Add a request's pages of segment descriptors, its data into the buffer, its data out of the buffer.
cdef void copies_add_descriptors(copy_batch *batch, work *w) noexcept nogil
cdef void copies_add_in(copy_batch *batch, work *w, char *buffer) noexcept nogil
cdef void copies_add_out(copy_batch *batch, work *w, const char *buffer) noexcept nogil
# Do them all.  What came of a request's nr copies: how many of them failed.
cdef void copies_run(copy_batch *batch, GrantTable grants) noexcept nogil
cdef uint32_t copies_failed(copy_batch *batch, work *w, uint32_t nr) noexcept nogil
