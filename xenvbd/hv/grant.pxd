"""Grants: owned handles of the grant table (map, copy) and of the sharing side, and what they hand out."""
from libc.stdint cimport uint16_t, uint32_t

from xenvbd.hv.ops cimport (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_general_error,
    Hypervisor,
    xengnttab_grant_copy_segment_t,
)


cdef class Pages:
    """Contiguous pages at `address`, what Mapping and Shared have in common; a memoryview shows the bytes."""
    cdef void *address                  # NULL once given back
    cdef readonly uint32_t count
    cdef readonly bint writable
    cdef Py_ssize_t _views
    cdef object __weakref__

    # 0 or a negative errno; -EBUSY: a memoryview of them is in use.  Doing it again does nothing.
    cdef int c_release(self) noexcept nogil


cdef class Handle:
    """An open handle: what GrantTable and GrantSharer have in common."""
    cdef Hypervisor _hypervisor
    cdef void *_handle
    cdef object _live                   # weak set of the Pages that came from it

    cdef int c_close(self) noexcept nogil


cdef class Mapping(Pages):
    """Pages of another domain, mapped; unmap() or the end of the with block gives them back."""
    cdef GrantTable _table


cdef class GrantTable(Handle):
    """One open handle of the mapping and copying side; it belongs to one thread."""

    cpdef Mapping map(self, uint32_t domid, refs, bint writable=*)
    # map() and unmap() for the I/O thread, which owns what it maps; 0 or a negative errno.
    cdef int c_map(self, uint32_t domid, const uint32_t *refs, uint32_t count, bint writable,
                   void **address) noexcept nogil
    cdef int c_unmap(self, void *address, uint32_t count) noexcept nogil
    # One call for all segments.  0 says nothing about any of them: look at each status.
    cdef int copy(self, xengnttab_grant_copy_segment_t *segments, uint32_t count) noexcept nogil
    cdef int _copy_one(self, xengnttab_grant_copy_segment_t *segment) except? -1


cdef class Shared(Pages):
    """Own pages, granted to a domain: `refs`, one a page."""
    cdef GrantSharer _sharer
    cdef readonly tuple refs


cdef class GrantSharer(Handle):
    """One open handle of the sharing side (xengntshr): what a frontend does."""

    cpdef Shared share(self, uint32_t domid, uint32_t count, bint writable=*)


# Fill a segment.  Its status starts as an error, so that a call that failed leaves no success behind.
cdef inline void copy_from_guest(xengnttab_grant_copy_segment_t *segment, uint32_t gref, uint16_t domid,
                                 uint16_t offset, void *local, uint16_t length) noexcept nogil:
    segment.source.foreign.ref = gref
    segment.source.foreign.offset = offset
    segment.source.foreign.domid = domid
    segment.dest.virt = local
    segment.len = length
    segment.flags = GNTCOPY_source_gref
    segment.status = GNTST_general_error


cdef inline void copy_to_guest(xengnttab_grant_copy_segment_t *segment, uint32_t gref, uint16_t domid,
                               uint16_t offset, const void *local, uint16_t length) noexcept nogil:
    segment.source.virt = <void *>local
    segment.dest.foreign.ref = gref
    segment.dest.foreign.offset = offset
    segment.dest.foreign.domid = domid
    segment.len = length
    segment.flags = GNTCOPY_dest_gref
    segment.status = GNTST_general_error
