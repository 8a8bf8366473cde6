"""Data pages granted to the backend: one table, a free list through it."""
from libc.stdint cimport int32_t, uint32_t

from xenvbd.hv.grant cimport GrantSharer
from xenvbd.hv.ops cimport Hypervisor

cdef enum:
    MAX_SEGMENTS = 256      # pages of a request; blkif.h leaves it open, Linux's backend and ours stop there

cdef struct page:
    char *address
    uint32_t gref
    int32_t next            # in the list it is in; -1: the last


cdef class PagePool:
    """PagePool(hypervisor, domid, fresh): see pool.pyx."""
    cdef Hypervisor hypervisor
    cdef readonly GrantSharer sharer
    cdef list areas                     # hv.grant.Shared
    cdef page *pages
    cdef uint32_t nr_pages
    cdef int32_t free_page
    cdef readonly uint32_t domid
    cdef readonly uint32_t nr_free
    cdef readonly bint fresh

    # A list of so many pages, granted, at least 1 and at most nr_free and MAX_SEGMENTS; -1: they cannot be granted.
    cdef int32_t get(self, uint32_t count, bint writable) noexcept nogil
    # Give a list of count pages back; a negative errno if the grant cannot be taken back.
    cdef int put(self, int32_t head, uint32_t count) noexcept nogil
    cdef int add(self, uint32_t count) noexcept nogil
    cdef int grant(self, int32_t head, uint32_t count, bint writable) noexcept nogil
