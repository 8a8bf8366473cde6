"""Pages of the guest that stay mapped (feature-persistent): a table by grant reference, and never more than a cap.

A page that requests use stays; of the others those go that were not used for a while.  What cannot be mapped, or finds
no room, is copied as without persistent grants: the answer is the copy's.
"""
from libc.stdint cimport uint32_t, uint64_t

from xenvbd.dataplane.work cimport work
from xenvbd.disk.disk cimport iovec
from xenvbd.hv.grant cimport GrantTable
from xenvbd.ring cimport XENVBD_SECTOR_SIZE

cdef enum:
    KEPT_NONE = 0xFFFFFFFF

cdef struct kept_page:
    char *address               # NULL: not in use
    uint32_t gref
    uint32_t users              # segments of requests in flight
    uint32_t recent             # used since the hand or the sweep came by
    uint32_t next_free


cdef class Kept:
    """The pages of one ring; of no use, and empty, with a cap of 0."""
    cdef GrantTable grants
    cdef kept_page *pages
    cdef uint32_t *table        # open addressing: numbers of pages, or KEPT_NONE
    cdef readonly uint32_t cap
    cdef readonly uint32_t count
    cdef uint32_t domid
    cdef uint32_t shift         # 32 less the table's bits
    cdef uint32_t mask
    cdef uint32_t first_free
    cdef uint32_t hand
    cdef uint64_t sweep_ns
    cdef uint64_t now           # of the pass
    cdef uint64_t squeeze_at    # not before this are pages let go to make room
    cdef readonly uint64_t sweep_at     # when to look for pages that nobody used


cdef inline uint32_t kept_find(Kept k, uint32_t gref) noexcept nogil:
    """The number of a page that is mapped, or KEPT_NONE."""
    cdef uint32_t at = (gref * <uint32_t>0x9E3779B1) >> k.shift
    cdef uint32_t page = k.table[at]
    while page != KEPT_NONE and k.pages[page].gref != gref:
        at = (at + 1) & k.mask
        page = k.table[at]
    return page


# Map a page that is not there.  KEPT_NONE: there is no room, or it cannot be mapped.
cdef uint32_t kept_add(Kept k, uint32_t gref) noexcept nogil
# Let go of what was not used for a time (kept_take() sees to the time), of everything nobody uses, and of everything.
cdef void kept_sweep(Kept k, uint64_t now) noexcept nogil
cdef void kept_drop_idle(Kept k) noexcept nogil
cdef void kept_drop_all(Kept k) noexcept nogil


cdef inline void kept_give(Kept k, work *w, uint32_t nr) noexcept nogil:
    """The first nr segments of a request need their pages no more."""
    cdef uint32_t i
    for i in range(nr):
        k.pages[w.kept[i]].users -= 1


cdef inline bint kept_take(Kept k, work *w) noexcept nogil:
    """Find all pages of a request's data, and make its vectors of them; 0: one of them cannot be had."""
    cdef iovec *vector = w.vectors - 1
    cdef char *end = NULL
    cdef char *start
    cdef kept_page *page
    cdef uint32_t i, number, length
    for i in range(w.plan.nr_segments):
        number = kept_find(k, w.segments[i].gref)
        if number == KEPT_NONE:
            number = kept_add(k, w.segments[i].gref)
            if number == KEPT_NONE:
                kept_give(k, w, i)
                return False
        page = &k.pages[number]
        page.users += 1
        page.recent = 1
        w.kept[i] = number
        start = page.address + w.segments[i].first_sect * XENVBD_SECTOR_SIZE
        length = (w.segments[i].last_sect - <uint32_t>w.segments[i].first_sect + 1) * XENVBD_SECTOR_SIZE
        if start == end:
            vector.iov_len += length
        else:
            vector += 1
            vector.iov_base, vector.iov_len = start, length
        end = start + length
    w.nr_vectors = <uint32_t>(vector - w.vectors) + 1
    return True
